package app_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"rootstream/app"
)

// composeFile is what we use of Docker's compose format.
type composeFile struct {
	Services map[string]composeService `yaml:"services"`
	Volumes  map[string]any            `yaml:"volumes"`
	Secrets  map[string]struct {
		File string `yaml:"file"`
	} `yaml:"secrets"`
}

type composeService struct {
	Image string `yaml:"image"`
	Build struct {
		Context    string `yaml:"context"`
		Dockerfile string `yaml:"dockerfile"`
	} `yaml:"build"`
	Environment map[string]string `yaml:"environment"`
	Command     []string          `yaml:"command"`
	Secrets     []string          `yaml:"secrets"`
	Volumes     []string          `yaml:"volumes"`
	Ports       []string          `yaml:"ports"`
	DependsOn   map[string]any    `yaml:"depends_on"`
}

func readCompose(t *testing.T, file string) composeFile {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c composeFile
	if err := yaml.Unmarshal(raw, &c); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return c
}

func TestComposeFilesNameOnlyWhatExists(t *testing.T) {
	t.Parallel()
	for file, services := range map[string][]string{
		"../deploy/compose.yaml":           {"postgres", "redis", "rootstream"},
		"../tests/docker-compose.test.yml": {"influxdb", "postgres", "redis"},
	} {
		c := readCompose(t, file)
		for _, name := range services {
			if _, ok := c.Services[name]; !ok {
				t.Errorf("%s has no service %s", file, name)
			}
		}
		for name, s := range c.Services {
			checkService(t, filepath.Dir(file), c, name, s)
		}
	}
}

var (
	pinned     = regexp.MustCompile(`^[a-z0-9./-]+:[0-9][\w.-]*$`)
	secretPath = regexp.MustCompile(`/run/secrets/(\w+)`)
)

func checkService(t *testing.T, dir string, c composeFile, name string, s composeService) {
	t.Helper()
	if s.Build.Context != "" {
		if _, err := os.Stat(filepath.Join(dir, s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	} else if !pinned.MatchString(s.Image) {
		t.Errorf("%s: the image %q names no version", name, s.Image)
	}
	used := strings.Join(s.Command, " ")
	for variable, value := range s.Environment {
		used += " " + value
		if strings.HasPrefix(variable, "ROOTSTREAM_") && !knownVariable(variable) {
			t.Errorf("%s: %s is not a setting", name, variable)
		}
	}
	for _, m := range secretPath.FindAllStringSubmatch(used, -1) {
		if !slices.Contains(s.Secrets, m[1]) {
			t.Errorf("%s reads the secret %s and is not given it", name, m[1])
		}
	}
	for _, secret := range s.Secrets {
		if c.Secrets[secret].File == "" {
			t.Errorf("%s: the secret %s is not declared", name, secret)
		}
	}
	for _, v := range s.Volumes {
		volume, _, _ := strings.Cut(v, ":")
		if _, ok := c.Volumes[volume]; !ok {
			t.Errorf("%s: the volume %s is not declared", name, volume)
		}
	}
	for other := range s.DependsOn {
		if _, ok := c.Services[other]; !ok {
			t.Errorf("%s waits for %s, which is not there", name, other)
		}
	}
	for _, p := range s.Ports {
		if !strings.HasPrefix(p, "127.0.0.1:") {
			t.Errorf("%s: port %s is open to the network", name, p)
		}
	}
}

func knownVariable(name string) bool {
	return slices.ContainsFunc(app.Keys(), func(k app.Key) bool {
		return name == k.Env || (k.Type == "secret" && name == k.Env+"_FILE")
	})
}
