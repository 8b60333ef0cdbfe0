package cli_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rootstream/cli"
)

// public are the commands that others rely on.
const public = `up serve node demo status doctor version completion openapi
config show|config validate|config explain|migrate up|migrate status|key status|key rotate
user add|user list|user show|user role|user verify|user disable|user enable|user delete|user import|user export
session list|session show|session revoke|session revoke-all|session cleanup
mfa enroll|mfa status|mfa reset|stream create|stream list|stream show|stream start|stream stop
event append|event list|event replay|event verify
backup create|backup list|backup show|backup verify|backup test-restore|backup restore|backup delete|backup prune|backup window|backup schedule list|backup schedule run|backup key list|backup key add|backup key remove|backup key rotate
sync status|sync get|sync update|sync watch|sync conflicts|sync snapshot|sync restore`

func TestEveryPublicCommandIsThere(t *testing.T) {
	t.Parallel()
	all := cli.Commands()
	first, rest, _ := strings.Cut(public, "\n")
	names := append(strings.Fields(first), strings.Split(strings.ReplaceAll(rest, "\n", "|"), "|")...)
	for _, name := range names {
		if _, ok := all["rootstream "+name]; !ok {
			t.Errorf("there is no rootstream %s", name)
		}
	}
}

func TestEveryCommandHasAnExampleThatWorks(t *testing.T) {
	t.Parallel()
	for name, example := range cli.Commands() {
		if !strings.HasPrefix(example, "  rootstream") {
			t.Errorf("%s: the example %q does not begin with what is typed", name, example)
		}
		for line := range strings.Lines(example) {
			if err := cli.Accepts(words(t, line)[1:]); err != nil {
				t.Errorf("%s: its example %q: %v", name, strings.TrimSpace(line), err)
			}
		}
	}
}

// words splits a line of shell into the words of its first command, without redirections.
func words(t *testing.T, line string) []string {
	t.Helper()
	var all []string
	word, inWord, quote := "", false, rune(0)
	end := func() {
		if inWord {
			all = append(all, word)
		}
		word, inWord = "", false
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word += string(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\n' || r == '\t':
			end()
		case strings.ContainsRune("|<>&;#", r):
			end()
			return all
		default:
			word, inWord = word+string(r), true
		}
	}
	end()
	if quote != 0 {
		t.Errorf("an open quote in %q", line)
	}
	return all
}

// TestDocumentsUseCommandsThatExist checks every line of shell in the documents that begins with rootstream.
func TestDocumentsUseCommandsThatExist(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"../README.md", "../docs/MFA_SETUP.md", "../docs/BACKUP_RECOVERY.md", "../docs/MIGRATING_FROM_24.2.md"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		checked := 0
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
			if line = strings.TrimPrefix(line, "bin/"); !strings.HasPrefix(line, "rootstream ") {
				continue
			}
			checked++
			if err := cli.Accepts(words(t, line)[1:]); err != nil {
				t.Errorf("%s: %q: %v", filepath.Base(file), line, err)
			}
		}
		if checked == 0 {
			t.Errorf("%s shows no command", file)
		}
	}
}

// mention is a command that a sentence names, perhaps without what goes with it.
var mention = regexp.MustCompile("`rootstream ([a-z-]+)(?: ([a-z-]+))?[^`\n]*`")

func TestSentencesNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatal("no documents", err)
	}
	all := cli.Commands()
	for _, file := range append(files, "../README.md") {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range mention.FindAllStringSubmatch(string(raw), -1) {
			name, below := "rootstream "+found[1], found[2]
			if _, single := all[name]; found[1] != "is" && !single {
				t.Errorf("%s: %s: there is no such command", filepath.Base(file), found[0])
			}
			group := slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(c string) bool { return strings.HasPrefix(c, name+" ") })
			if _, there := all[name+" "+below]; group && below != "" && !there {
				t.Errorf("%s: %s: %s has no %s", filepath.Base(file), found[0], name, below)
			}
		}
	}
}

var routePattern = regexp.MustCompile("`(GET|POST|PUT|PATCH|DELETE) (/v1/[a-z0-9_/{}.-]+)")

func TestDocumentsNameRoutesThatExist(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "rootstream", "openapi").Output()
	if err != nil {
		t.Fatal(err)
	}
	var api struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	if err = json.Unmarshal(out, &api); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("../docs/MFA_SETUP.md")
	if err != nil {
		t.Fatal(err)
	}
	routes := routePattern.FindAllStringSubmatch(string(raw), -1)
	if len(routes) < 8 {
		t.Errorf("only %d routes were found", len(routes))
	}
	for _, r := range routes {
		if api.Paths[r[2]][strings.ToLower(r[1])] == nil {
			t.Errorf("there is no %s %s", r[1], r[2])
		}
	}
}

func TestInstallPutsEverythingInPlace(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("rootstream")
	if err != nil {
		t.Fatal(err)
	}
	prefix := filepath.Join(t.TempDir(), "stage", "usr", "local")
	if out, err := exec.CommandContext(t.Context(), "../scripts/install.sh", binary, prefix).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, file := range []string{
		"bin/rootstream", "share/bash-completion/completions/rootstream", "share/zsh/site-functions/_rootstream",
		"share/fish/vendor_completions.d/rootstream.fish", "share/man/man1/rootstream.1", "share/man/man1/rootstream-session-revoke-all.1",
	} {
		if info, err := os.Stat(filepath.Join(prefix, file)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	if info, err := os.Stat(filepath.Join(prefix, "bin/rootstream")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the program cannot be run by all: %v, %v", info.Mode(), err)
	}
	script := filepath.Join(prefix, "share/bash-completion/completions/rootstream")
	if out, err := exec.CommandContext(t.Context(), "bash", "-n", script).CombinedOutput(); err != nil {
		t.Errorf("the completion for bash: %v: %s", err, out)
	}
	if again, err := exec.CommandContext(t.Context(), "../scripts/install.sh", binary, prefix).CombinedOutput(); err != nil {
		t.Errorf("installing over it: %v: %s", err, again)
	}
}
