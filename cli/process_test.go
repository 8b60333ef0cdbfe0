package cli_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rootstream/tests/harness"
)

// program is the real rootstream as one user of this machine runs it.
type program struct {
	t    *testing.T
	path string
	home string
	as   *syscall.Credential // nil means as this process
}

// programs returns the program as this user and, if that is root, as an ordinary one too.
func programs(t *testing.T) map[string]program {
	t.Helper()
	all := map[string]program{"as_this_user": newProgram(t, nil)}
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, errU := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, errG := strconv.ParseUint(nobody.Gid, 10, 32)
		if errU != nil || errG != nil {
			t.Fatal(errU, errG)
		}
		all["as_an_ordinary_user"] = newProgram(t, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)})
	}
	return all
}

// newProgram puts the program where everybody may run it, with a home of its own.
func newProgram(t *testing.T, as *syscall.Credential) program {
	t.Helper()
	dir, err := os.MkdirTemp("", "rs-cli-") //nolint:usetesting // other users cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := program{t: t, path: filepath.Join(dir, "rootstream"), home: filepath.Join(dir, "home"), as: as}
	harness.Publish(t, p.path)
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(p.home, 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if as != nil {
		if err := os.Chown(p.home, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// command prepares a run; env adds to a bare environment.
func (p program) command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(p.path, args...)
	cmd.Dir = p.home
	cmd.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH"), "GORACE=" + os.Getenv("GORACE"), "TMPDIR=" + os.TempDir(), "HOME=" + p.home}, unhurried(), env)
	if p.as == nil { // others may not write there
		cmd.Env = append(cmd.Env, "GOCOVERDIR="+os.Getenv("GOCOVERDIR"))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.as}
	return cmd
}

// run runs a command to its end.
func (p program) run(stdin string, args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	cmd := p.command(nil, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		p.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// must is run for what has to succeed.
func (p program) must(stdin string, args ...string) string {
	p.t.Helper()
	code, stdout, stderr := p.run(stdin, args...)
	if code != 0 {
		p.t.Fatalf("rootstream %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// start launches a process that is killed when the test ends, if it still runs.
func (p program) start(env []string, args ...string) *process {
	p.t.Helper()
	running, err := launch(p.command(env, args...))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(running.Kill)
	return running
}

// stop ends a process as its user would and checks that it ends well.
func stop(t *testing.T, p *process, sig syscall.Signal) {
	t.Helper()
	if code, err := p.Signal(sig); err != nil || code != 0 {
		t.Errorf("on %v it ended with %d, %v; stderr:\n%s", sig, code, err, p.Stderr)
	}
}

// belongingTo lists the processes that name dir in their command line.
func belongingTo(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		if raw, err := os.ReadFile(f); err == nil && bytes.Contains(raw, []byte(dir)) {
			found = append(found, f+" "+string(bytes.ReplaceAll(raw, []byte{0}, []byte(" "))))
		}
	}
	return found
}

const (
	passwordText = "correct horse battery staple"
	quickStart   = 5 * time.Second // what a second start should take on a machine that is not busy
)

func TestTheStackStartsIsKilledStartsAgainAndStops(t *testing.T) {
	t.Parallel()
	for name, p := range programs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := p
			p.t = t
			data := filepath.Join(p.home, "data")
			listen := harness.Address(t)
			up := p.start(nil, "up", "--data", data, "--listen", listen)
			link := func() bool { return strings.Contains(up.Stdout.String(), up.URL+"/setup#token=sut_") }
			if err := up.until("the link for the first administrator", link); err != nil || up.URL != "http://"+listen {
				t.Errorf("%v; it says:\n%s", err, up.Stdout)
			}
			if info, err := os.Stat(filepath.Join(data, "client.yaml")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("client.yaml: %v, %v", info, err)
			}
			p.must("", "demo", "--url", up.URL)
			p.must("", "demo", "--data", data)
			p.must(passwordText, "user", "add", "ada", "--email", "ada@example.org", "--role", "admin", "--data", data)
			if code, out, _ := p.run("", "doctor", "--data", data); code != 0 || !strings.Contains(out, "is served by process") {
				t.Errorf("the doctor beside a stack that runs: %d\n%s", code, out)
			}
			if code, _, stderr := p.run("", "up", "--data", data, "--listen", listen); code != 5 || !strings.Contains(stderr, "another process runs on this data folder") {
				t.Errorf("a second stack in the same folder: %d %s", code, stderr)
			}
			other := filepath.Join(p.home, "other")
			if code, _, stderr := p.run("", "up", "--data", other, "--listen", listen); code != 5 || !strings.Contains(stderr, "already in use") {
				t.Errorf("a second stack on the same port: %d %s", code, stderr)
			}

			up.Kill()
			again := p.start(nil, "up", "--data", data, "--listen", listen)
			t.Logf("ready after %s, after a kill %s", up.Took, again.Took)
			if again.Took > quickStart {
				t.Logf("slower than %s", quickStart)
			}
			if strings.Contains(again.Stdout.String(), "/setup#") {
				t.Error("there is an administrator, and a link to make the first one")
			}
			p.must("", "user", "show", "ada", "--data", data)
			p.must("", "demo", "--url", again.URL)
			stop(t, again, syscall.SIGINT)
			if left := belongingTo(t, data); len(left) > 0 {
				t.Errorf("Ctrl-C left %s", strings.Join(left, "\n"))
			}
			if code, _, stderr := p.run("", "user", "list", "--data", data); code != 6 || !strings.Contains(stderr, "rootstream up --data "+data) {
				t.Errorf("user list when nothing runs: %d %s", code, stderr)
			}
		})
	}
}

func TestAStackWhoseMasterKeyIsLostRunsAndSaysSo(t *testing.T) {
	t.Parallel()
	p := newProgram(t, nil)
	data := filepath.Join(p.home, "data")
	args := []string{"up", "--data", data, "--listen", harness.Address(t)}
	// What is set for other systems does not reach the stack's own servers.
	env := []string{"ROOTSTREAM_POSTGRES_DSN=postgres://elsewhere/rs", "ROOTSTREAM_REDIS_URL=redis://elsewhere:1"}
	stop(t, p.start(env, args...), syscall.SIGTERM)
	key := filepath.Join(data, "master.key")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	up := p.start(nil, args...)
	if code, out, _ := p.run("", "doctor", "--data", data); code != 8 || !strings.Contains(out, "put the master key file back") {
		t.Errorf("the doctor: %d\n%s", code, out)
	}
	answer := request(t, "POST", up.URL+"/v1/users", "", map[string]string{"username": "ada", "email": "ada@example.org", "password": passwordText})
	if answer.status != http.StatusCreated {
		t.Errorf("signing up answers %d %v", answer.status, answer.body)
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	stop(t, up, syscall.SIGTERM)
	up = p.start(nil, args...)
	p.must("", "doctor", "--data", data)
	stop(t, up, syscall.SIGTERM)
}

// answer is what a server said.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

func request(t *testing.T, method, url, token string, body any) answer {
	t.Helper()
	a, err := try(http.DefaultClient, method, url, token, body)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// try is request for when the server may be gone.
func try(client *http.Client, method, url, token string, body any) (answer, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(raw))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	a := answer{status: resp.StatusCode, header: resp.Header, body: map[string]any{}}
	raw, err = io.ReadAll(resp.Body)
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &a.body)
	}
	return a, err
}
