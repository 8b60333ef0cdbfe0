package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is a process that ends with this one.
type child struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	line   string // what it said when it was ready
	stdout io.ReadCloser
}

// startChild runs cmd and waits until a line of its output begins with ready; "" does not wait.
func startChild(ctx context.Context, cmd *exec.Cmd, ready string) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	c := &child{cmd: cmd, ended: make(chan struct{})}
	var err error
	if c.stdout, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the starting thread ends, so this one is kept until the child has ended.
		runtime.LockOSThread()
		defer close(c.ended)
		failure := cmd.Start()
		started <- failure
		if failure == nil {
			_, _ = cmd.Process.Wait()
		}
	}()
	if err = <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	if ready == "" {
		go func() { _, _ = io.Copy(io.Discard, c.stdout) }()
		return c, nil
	}
	lines := make(chan string, 1)
	go func() {
		sc := bufio.NewScanner(c.stdout)
		for sc.Scan() {
			if strings.HasPrefix(sc.Text(), ready) {
				select {
				case lines <- sc.Text():
				default:
				}
			}
		}
	}()
	select {
	case c.line = <-lines:
		return c, nil
	case <-c.ended:
		return nil, fmt.Errorf("%s ended before it was ready", cmd.Path)
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(time.Minute):
		err = fmt.Errorf("%s was not ready within a minute", cmd.Path)
	}
	return nil, errors.Join(err, c.kill())
}

// kill ends the process at once.
func (c *child) kill() error {
	err := c.cmd.Process.Kill()
	<-c.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// usage is what the kernel says a process has used.
type usage struct {
	cpu      time.Duration
	ended    time.Duration // CPU of children that have ended
	rss, hwm int64         // bytes
}

// usageOf reads /proc of a process.
func usageOf(pid int) (usage, error) {
	var u usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) //nolint:gosec // a number
	if err != nil {
		return u, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	for at := 11; at < 15; at++ { // utime, stime, and both of its children
		ticks, bad := strconv.ParseInt(fields[at], 10, 64)
		if bad != nil {
			return u, fmt.Errorf("read the CPU time of %d: %w", pid, bad)
		}
		to := &u.cpu
		if at > 12 {
			to = &u.ended
		}
		*to += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux we know
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) //nolint:gosec // a number
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			u.rss = kb << 10
		case "VmHWM":
			u.hwm = kb << 10
		}
	}
	return u, nil
}
