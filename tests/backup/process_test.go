package backup_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rootstream/tests/harness"
)

// child is one run of the program.
type child struct {
	t              *testing.T
	args           []string
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	done           chan struct{}
}

// result is a run that has ended; its code is -1 if it was killed.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string { return fmt.Sprintf("exit code %d\n%s%s", r.code, r.stdout, r.stderr) }

// says reports whether it ended for a reason that is nobody's fault.
func (r result) says(code int, words ...string) bool {
	for _, word := range words {
		if r.code == code && strings.Contains(r.stderr, word) {
			return true
		}
	}
	return false
}

// What the program says when others are at work.
const (
	busy      = "somebody else is writing to the repository"
	withdrawn = "the backup was withdrawn"
	lost      = "the run was declared dead, or could not say that it lives"
)

func (w *world) start(args ...string) *child {
	w.t.Helper()
	return w.startWith(nil, args...)
}

// startWith starts the program with something more in its environment.
func (w *world) startWith(env []string, args ...string) *child {
	w.t.Helper()
	c := &child{t: w.t, args: args, cmd: harness.Command(args, slices.Concat(w.env, env)), done: make(chan struct{})}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its parent outlives it
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	if err := c.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		_ = c.cmd.Wait() // ProcessState has it
	}()
	return c
}

// run runs the program to its end.
func (w *world) run(args ...string) result {
	w.t.Helper()
	return w.start(args...).wait()
}

func (c *child) signal(s syscall.Signal) {
	select {
	case <-c.done:
	default:
		_ = c.cmd.Process.Signal(s) // it may be ending
	}
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// within waits that long for the end.
func (c *child) within(d time.Duration) bool {
	select {
	case <-c.done:
		return true
	case <-time.After(d):
		return false
	}
}

// wait waits for the end, and looks for what must never be said.
func (c *child) wait() result {
	c.t.Helper()
	if !c.within(3 * harness.Patience) {
		c.signal(syscall.SIGQUIT)
		c.within(time.Second)
		c.signal(syscall.SIGKILL)
		<-c.done
		c.t.Errorf("%v does not end:\n%s", c.args, c.stderr.String())
	}
	r := result{c.cmd.ProcessState.ExitCode(), c.stdout.String(), c.stderr.String()}
	for _, word := range []string{"DATA RACE", "panic:", "fatal error"} {
		if strings.Contains(r.stderr, word) {
			c.t.Errorf("%v: %v", c.args, r)
			break
		}
	}
	return r
}
