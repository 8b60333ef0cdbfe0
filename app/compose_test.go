package app_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"rootstream/app/config"
)

// composeFile is what we use of Docker's compose format.
type composeFile struct {
	Services map[string]composeService `yaml:"services"`
	Volumes  map[string]any            `yaml:"volumes"`
	Networks map[string]struct {
		IPAM struct {
			Config []struct{ Subnet, Gateway string }
		} `yaml:"ipam"`
	} `yaml:"networks"`
	Secrets map[string]struct {
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
	return slices.ContainsFunc(config.Settings(), func(k config.Setting) bool {
		return name == k.Env || (k.Type == "secret" && name == k.Env+"_FILE")
	})
}

// Whoever is trusted as a proxy may say where every request comes from: that is
// the gateway, through which the host's own proxy comes, and no neighbour.
func TestComposeTrustsTheGatewayAlone(t *testing.T) {
	t.Parallel()
	c := readCompose(t, "../deploy/compose.yaml")
	networks := c.Networks["default"].IPAM.Config
	if len(networks) != 1 {
		t.Fatalf("the network is not fixed: %+v", networks)
	}
	subnet, err := netip.ParsePrefix(networks[0].Subnet)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := netip.ParsePrefix(c.Services["rootstream"].Environment["ROOTSTREAM_HTTP_TRUSTED_PROXIES"])
	if err != nil || !trusted.IsSingleIP() || trusted.Addr().String() != networks[0].Gateway || !subnet.Contains(trusted.Addr()) {
		t.Errorf("trusted: %v, %v; the gateway is %s", trusted, err, networks[0].Gateway)
	}
}

// The image is built from the whole folder, which must not carry secrets into it.
func TestTheImageHoldsNoSecrets(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	ignored := strings.Fields(string(raw))
	for _, s := range readCompose(t, "../deploy/compose.yaml").Secrets {
		if dir := filepath.Join("deploy", filepath.Dir(s.File)); !slices.Contains(ignored, dir) {
			t.Errorf("%s is copied into the image", dir)
		}
	}
	for _, dir := range []string{".git", "bin"} {
		if !slices.Contains(ignored, dir) {
			t.Errorf("%s is copied into the image", dir)
		}
	}
}

// What follows the instructions leaves no file that others on the host can read.
func TestComposeMakesSecretsForTheirReadersAlone(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../deploy/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var script []string
	for line := range strings.Lines(string(raw)) {
		if command, ok := strings.CutPrefix(line, "#   "); ok && !strings.Contains(command, "docker") {
			command = strings.ReplaceAll(command, "sudo chown 10001", "ls -l")
			script = append(script, strings.ReplaceAll(command, "cd deploy", "true"))
		}
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", strings.Join(script, ""))
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, s := range readCompose(t, "../deploy/compose.yaml").Secrets {
		info, err := os.Stat(filepath.Join(dir, s.File))
		if err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}
