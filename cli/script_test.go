package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
)

// TestScripts types what users type. Each script has a database of its own; Redis is shared.
func TestScripts(t *testing.T) {
	t.Parallel()
	redis := cachetest.Server(t).URL()
	master := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(master, []byte(strings.Repeat("k", 40)), 0o600); err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn, empty := postgrestest.DSN(t), ""
			if name == "migrate" {
				empty = postgrestest.Empty(t)
			}
			testscript.Run(t, testscript.Params{
				Files: []string{script}, RequireExplicitExec: true, RequireUniqueNames: true, Cmds: scriptCommands(),
				Condition: scriptCondition, Setup: func(e *testscript.Env) error {
					e.Setenv("DSN", dsn)
					e.Setenv("EMPTY", empty)
					e.Setenv("REDIS", redis)
					e.Setenv("MASTER", master)
					e.Setenv("LISTEN", fmt.Sprintf("127.0.0.1:%d", cachetest.FreePort(t)))
					e.Setenv("ROOTSTREAM_POSTGRES_DSN", dsn)
					e.Setenv("ROOTSTREAM_REDIS_URL", redis)
					e.Setenv("ROOTSTREAM_KEYS_MASTER_KEY_FILE", master)
					e.Setenv("GOCOVERDIR", os.Getenv("GOCOVERDIR"))
					e.Setenv("GORACE", os.Getenv("GORACE"))
					return nil
				},
			})
		})
	}
}

// scriptCondition: [stack] holds where a stack was started in root's default folder.
func scriptCondition(name string) (bool, error) {
	if name != "stack" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	_, err := os.Stat("/var/lib/rootstream/client.yaml")
	return err == nil, nil
}

type scriptCommand = func(ts *testscript.TestScript, neg bool, args []string)

func scriptCommands() map[string]scriptCommand {
	return map[string]scriptCommand{"exits": exits, "field": field, "tidy": tidy, "serve": serve, "login": login, "before": before}
}

// exits CODE PROGRAM ARGS… runs a program that must end with that code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// field VARIABLE PATH sets a variable to a field of the JSON just printed: 0.id, device.name.
func field(ts *testscript.TestScript, _ bool, args []string) {
	v := stdoutJSON(ts)
	for part := range strings.SplitSeq(args[1], ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[part]
		case []any:
			i, err := strconv.Atoi(part)
			ts.Check(err)
			if i >= len(x) {
				ts.Fatalf("%s: only %d elements", args[1], len(x))
			}
			v = x[i]
		default:
			ts.Fatalf("%s: %T has no %s", args[1], v, part)
		}
	}
	if v == nil {
		ts.Fatalf("%s is not there", args[1])
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

func stdoutJSON(ts *testscript.TestScript) any {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	var v any
	ts.Check(d.Decode(&v))
	if d.More() {
		ts.Fatalf("more than one JSON value")
	}
	return v
}

var (
	snakeCase = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	timestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\d`)
)

// tidy checks that what was just printed is one JSON array or object with names in snake case and times in RFC 3339.
func tidy(ts *testscript.TestScript, _ bool, _ []string) {
	v := stdoutJSON(ts)
	switch v.(type) {
	case []any, map[string]any:
	default:
		ts.Fatalf("%v is no array or object", v)
	}
	var walk func(v any)
	walk = func(v any) {
		switch x := v.(type) {
		case map[string]any:
			for name, inner := range x {
				if !snakeCase.MatchString(name) {
					ts.Fatalf("%q is not in snake case", name)
				}
				walk(inner)
			}
		case []any:
			for _, inner := range x {
				walk(inner)
			}
		case string:
			if timestamp.MatchString(x) {
				if _, err := time.Parse(time.RFC3339, x); err != nil {
					ts.Fatalf("%q is not RFC 3339", x)
				}
			}
		}
	}
	walk(v)
}

// serve ARGS… runs a server until the script ends and sets URL.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	path, err := exec.LookPath("rootstream")
	ts.Check(err)
	cmd := exec.Command(path, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(append(os.Environ(), unhurried()...), "ROOTSTREAM_POSTGRES_DSN="+ts.Getenv("DSN"), "ROOTSTREAM_REDIS_URL="+ts.Getenv("REDIS"),
		"ROOTSTREAM_KEYS_MASTER_KEY_FILE="+ts.Getenv("MASTER"))
	p, err := launch(cmd)
	ts.Check(err)
	ts.Defer(func() {
		if code, err := p.Signal(syscall.SIGTERM); code != 0 || err != nil {
			ts.Logf("serve ended with %d, %v: %s", code, err, p.Stderr)
		}
	})
	ts.Setenv("URL", p.URL)
}

// login TOKEN SESSION NAME PASSWORD DEVICE signs in and sets two variables.
func login(ts *testscript.TestScript, _ bool, args []string) {
	body, err := json.Marshal(map[string]string{"login": args[2], "password": args[3], "device_name": args[4]})
	ts.Check(err)
	resp, err := http.Post(ts.Getenv("URL")+"/v1/auth/login", "application/json", bytes.NewReader(body))
	ts.Check(err)
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	ts.Check(err)
	var answer struct {
		Token   string `json:"token"`
		Session struct {
			ID string `json:"id"`
		} `json:"session"`
	}
	ts.Check(json.Unmarshal(raw, &answer))
	if answer.Token == "" {
		ts.Fatalf("signing in: %s %s", resp.Status, raw)
	}
	ts.Setenv(args[0], answer.Token)
	ts.Setenv(args[1], answer.Session.ID)
}

// before FIRST SECOND checks that stdout holds FIRST, and after it SECOND.
func before(ts *testscript.TestScript, _ bool, args []string) {
	_, rest, found := strings.Cut(ts.ReadFile("stdout"), args[0])
	if !found || !strings.Contains(rest, args[1]) {
		ts.Fatalf("%q does not come before %q", args[0], args[1])
	}
}
