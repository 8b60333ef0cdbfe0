package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RunAsProgram is set in the environment of the processes that [Start] makes of the test binary.
const RunAsProgram = "HARNESS_RUN_AS_PROGRAM"

// Patience is for what happens at once on a machine that is not busy.
const Patience = 40 * time.Second

const lookEvery = 10 * time.Millisecond

// readyPrefix begins the line that a process prints to standard output once it serves; the rest is its URL.
const readyPrefix = "rootstream is ready: "

// Program is one run of the binary.
type Program struct {
	Name   string
	tb     testing.TB
	cmd    *exec.Cmd
	stdout string // file
	stderr string // file
	done   chan struct{}
}

// environ is what every process gets, and env on top.
func environ(env []string) []string {
	out := []string{RunAsProgram + "=1", "GORACE=halt_on_error=0 exitcode=66 " + os.Getenv("GORACE")}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return append(out, env...)
}

// Command is the test binary as the program, with these arguments and variables; it ends with this process.
func Command(args, env []string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...) //nolint:gosec,noctx // ourselves, ended by the test
	cmd.Env = environ(env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// Publish puts the test binary at a place where every user may run it.
func Publish(tb testing.TB, path string) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	switch err := os.Link(self, path); {
	case errors.Is(err, fs.ErrExist): // it was put there before
		return
	case err != nil: // another file system, or none that has links
		raw, err := os.ReadFile(self) //nolint:gosec // ourselves
		if err == nil {
			err = os.WriteFile(path, raw, 0o755) //nolint:gosec // a program
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // a program
		tb.Fatal(err)
	}
}

// Start runs the binary until the test ends. Its log must not tell of data races or panics.
func Start(tb testing.TB, name string, args, env []string) *Program {
	tb.Helper()
	p := &Program{tb: tb, Name: name, cmd: Command(args, env), done: make(chan struct{})}
	out := p.output(&p.stdout, "out")
	said := p.output(&p.stderr, "log")
	p.cmd.Stdout, p.cmd.Stderr = out, said
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel sends Pdeathsig when the starting thread ends
		defer close(p.done)
		failed := p.cmd.Start()
		started <- failed
		if failed == nil {
			_ = p.cmd.Wait() // ProcessState has it
		}
	}()
	err := errors.Join(<-started, out.Close(), said.Close())
	if err != nil {
		tb.Fatalf("start %s: %v", name, err)
	}
	tb.Cleanup(func() {
		p.Kill()
		p.inspect()
		if tb.Failed() {
			tb.Logf("the last warnings of %s:\n%s", name, p.warnings())
		}
	})
	return p
}

// output makes a file for what the process writes.
func (p *Program) output(path *string, kind string) *os.File {
	p.tb.Helper()
	f, err := os.CreateTemp(p.tb.TempDir(), p.Name+"-*."+kind)
	if err != nil {
		p.tb.Fatal(err)
	}
	*path = f.Name()
	return f
}

// Ready waits for the ready line and returns the URL in it.
func (p *Program) Ready() string {
	p.tb.Helper()
	url, err := p.Await()
	if err != nil {
		p.tb.Fatal(err)
	}
	return url
}

// Await is Ready for a process that other things than the test's own steps may hold up.
func (p *Program) Await() (string, error) {
	for end := time.Now().Add(2 * Patience); ; {
		line, _, whole := strings.Cut(p.Output(), "\n")
		if url, ok := strings.CutPrefix(line, readyPrefix); ok && whole {
			return strings.TrimSpace(url), nil
		}
		if whole || p.Within(lookEvery) && p.Output() == line {
			p.Within(time.Second) // its last words
			return "", fmt.Errorf("%s said %q, not that it is ready:\n%s", p.Name, line, p.Log())
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("%s is not ready:\n%s", p.Name, p.Log())
		}
	}
}

// SayReady prints the line that Ready waits for.
func SayReady(w io.Writer, url string) {
	_, _ = fmt.Fprintln(w, readyPrefix+url) // who does not listen does not wait
}

// Output is what it has written to standard output.
func (p *Program) Output() string { return contentOf(p.stdout) }

// Log is what it has written to standard error.
func (p *Program) Log() string { return contentOf(p.stderr) }

func contentOf(path string) string {
	b, _ := os.ReadFile(path) //nolint:gosec // made by us
	return string(b)
}

// Tail is the end of the log.
func (p *Program) Tail() string {
	log := p.Log()
	return log[max(0, len(log)-4000):]
}

// warnings are what the log says above the level info, each with the last request and how often.
func (p *Program) warnings() string {
	last, times, order := map[string]string{}, map[string]int{}, []string{}
	for line := range strings.Lines(p.Log()) {
		_, what, found := strings.Cut(line, " level=")
		if !found || (!strings.HasPrefix(what, "WARN") && !strings.HasPrefix(what, "ERROR")) {
			continue
		}
		what, _, _ = strings.Cut(what, " request_id=")
		if times[what]++; times[what] == 1 {
			order = append(order, what)
		}
		last[what] = line
	}
	var b strings.Builder
	for _, what := range order {
		_, _ = fmt.Fprintf(&b, "%4d× %s", times[what], last[what])
	}
	return b.String()
}

// PID is the process' number.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal, unless the process has ended.
func (p *Program) Signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = p.cmd.Process.Signal(s) // it may be ending
	}
}

// Pause stops the process where it stands (SIGSTOP); Resume lets it go on.
func (p *Program) Pause() { p.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Program) Resume() { p.Signal(syscall.SIGCONT) }

// Kill ends the process at once (SIGKILL).
func (p *Program) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Ended reports whether the process is gone.
func (p *Program) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Terminate asks the process to stop and returns its exit code.
func (p *Program) Terminate() int {
	p.tb.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Within waits that long for the end of the process, and reports whether it came.
func (p *Program) Within(d time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(d):
		return p.Ended()
	}
}

// Wait waits for the end of the process and returns its exit code, -1 if it was killed.
func (p *Program) Wait() int {
	p.tb.Helper()
	return p.WaitFor(Patience)
}

// WaitFor is Wait for a process that has more to do.
func (p *Program) WaitFor(patience time.Duration) int {
	p.tb.Helper()
	if !p.Within(patience) {
		p.Signal(syscall.SIGQUIT)
		p.Within(time.Second)
		p.tb.Errorf("%s does not stop:\n%s", p.Name, p.Tail())
		p.Kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// inspect fails the test for what must never be in a log.
func (p *Program) inspect() {
	f, err := os.Open(p.stderr)
	if err != nil {
		p.tb.Error(err)
		return
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		for _, word := range []string{"DATA RACE", "panic", "fatal error"} {
			if strings.Contains(line, word) {
				rest, _ := io.ReadAll(io.LimitReader(r, 6000))
				p.tb.Errorf("the log of %s: %s%s", p.Name, line, rest)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Eventually repeats fn until it returns nil, and tells how long that took.
func Eventually(tb testing.TB, within time.Duration, what string, fn func() error) time.Duration {
	tb.Helper()
	for begun := time.Now(); ; <-time.After(20 * time.Millisecond) {
		err := fn()
		if err == nil {
			return time.Since(begun)
		}
		if time.Since(begun) > within {
			tb.Fatalf("%s: not within %v: %v", what, within, err)
		}
	}
}
