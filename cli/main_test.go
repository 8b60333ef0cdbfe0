package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rootstream/cli"
)

// TestMain makes this test binary the real program whenever it is called rootstream.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"rootstream": func() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// process is a rootstream that runs until it is told to stop.
type process struct {
	URL            string // from its ready line
	Stdout, Stderr *output
	Took           time.Duration // until the ready line

	cmd  *exec.Cmd
	done chan struct{}
}

// unhurried lets a server take its time: under the race detector, on a busy machine, ten password hashes take a while.
func unhurried() []string {
	return []string{"ROOTSTREAM_HTTP_TIMEOUT=100s", "ROOTSTREAM_AUTH_HASH_QUEUE=60s", "ROOTSTREAM_POSTGRES_ACQUIRE_TIMEOUT=60s", "ROOTSTREAM_SESSION_MAX_BLIND=60s"}
}

// patience is how long a process on a busy machine may take for anything.
const patience = 2 * time.Minute

// launch starts cmd and waits for its ready line.
func launch(cmd *exec.Cmd) (*process, error) {
	p := &process{Stdout: &output{}, Stderr: &output{}, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	const ready = "rootstream is ready: "
	err := p.until("the ready line", func() bool { return strings.Contains(p.Stdout.String(), ready) })
	if err != nil {
		p.Kill()
		return p, fmt.Errorf("%w; stdout:\n%s\nstderr:\n%s", err, p.Stdout, p.Stderr)
	}
	p.Took = time.Since(begun)
	_, rest, _ := strings.Cut(p.Stdout.String(), ready)
	p.URL, _, _ = strings.Cut(rest, "\n")
	return p, nil
}

// until waits for something the process should do.
func (p *process) until(what string, done func() bool) error {
	deadline := time.After(patience)
	for !done() {
		select {
		case <-p.done:
			return fmt.Errorf("the process ended (%v) before %s", p.cmd.ProcessState, what)
		case <-deadline:
			return errors.New("waited too long for " + what)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// Signal sends a signal and returns the exit code once the process is gone, -1 if a signal ended it.
func (p *process) Signal(sig syscall.Signal) (int, error) {
	_ = p.cmd.Process.Signal(sig) // gone already is fine
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		return 0, fmt.Errorf("it does not end on %v; stderr:\n%s", sig, p.Stderr)
	}
}

// Kill ends the process at once.
func (p *process) Kill() { _, _ = p.Signal(syscall.SIGKILL) }
