package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rootstream/cli"
	"rootstream/tests/harness"
)

func TestMain(m *testing.M) {
	if os.Getenv(harness.RunAsProgram) != "" {
		os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const patience = harness.Patience

// result is a command that has ended.
type result struct {
	code           int
	stdout, stderr string
}

// run runs one command of the binary to its end.
func run(t *testing.T, stdin string, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := harness.Command(args, env)
	cmd.SysProcAttr = nil // its parent outlives it
	var out, err strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &err
	if e := cmd.Start(); e != nil {
		t.Fatal(e)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // ProcessState has it
	stop()
	return result{cmd.ProcessState.ExitCode(), out.String(), err.String()}
}

// masterKey makes a key file.
func masterKey(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(name, []byte("an-end-to-end-master-key-of-the-tests"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// stack says where the parts are that processes work with.
type stack struct {
	dsn, redis, key string
	more            []string // NAME=value
}

// env is the environment of a process on the stack; a DSN and a URL of Redis may be other ways to the same.
func (s stack) env() []string {
	env := []string{"ROOTSTREAM_POSTGRES_DSN=" + s.dsn, "ROOTSTREAM_KEYS_MASTER_KEY_FILE=" + s.key}
	if s.redis != "" {
		env = append(env, "ROOTSTREAM_REDIS_URL="+s.redis)
	}
	return append(env, s.more...)
}

// generous are limits that many clients on one address do not reach.
func generous() []string {
	var env []string
	for _, name := range []string{
		"LOGIN_ACCOUNT", "LOGIN_ANYWHERE", "LOGIN_NETWORK", "REGISTER_NETWORK", "MFA_NETWORK", "REFRESH_NETWORK",
		"TOKEN_NETWORK", "PROOF_ACCOUNT",
	} {
		env = append(env, "ROOTSTREAM_AUTH_RATE_"+name+"=10000")
	}
	return env
}

// instance is one serve process.
type instance struct {
	*harness.Program
	url string
}

// serve starts an instance and waits until it is ready.
func (s stack) serve(t *testing.T, name string) *instance {
	t.Helper()
	p := harness.Start(t, name, []string{"serve", "--listen", "127.0.0.1:0"}, s.env())
	return &instance{p, p.Ready()}
}

// admin makes an administrator by the command line.
func (s stack) admin(t *testing.T, name, password string) {
	t.Helper()
	r := run(t, password+"\n", s.env(), "user", "add", name, "--email", name+"@example.org", "--role", "admin", "--verified")
	if r.code != 0 {
		t.Fatalf("user add: exit %d: %s", r.code, r.stderr)
	}
}

// parallel runs fn n times at once and waits.
func parallel(n int, fn func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}

// want is an error unless the two are the same.
func want[T comparable](what string, have, want T) error {
	if have != want {
		return fmt.Errorf("%s is %v, want %v", what, have, want)
	}
	return nil
}
