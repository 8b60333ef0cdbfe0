package proc

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// Child is a process this one started. Its end is always waited for.
type Child struct {
	ID   ID
	done chan struct{}
	err  error
}

// Start runs cmd. A tie other than 0 is the signal it gets when this process dies, however that happens.
func Start(cmd *exec.Cmd, tie syscall.Signal) (*Child, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = tie
	c := &Child{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		if tie != 0 {
			// The kernel sends the signal when the creating thread ends, not the
			// process. This goroutine holds that thread until the child is gone.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
		}
		err := cmd.Start()
		if err == nil {
			// A child that is not yet waited for keeps its number, so this cannot name another.
			var st stat
			if st, err = readStat(cmd.Process.Pid); err != nil {
				err = fmt.Errorf("identify child: %w", err)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
			c.ID = ID{PID: cmd.Process.Pid, Start: st.start, Boot: bootID()}
		}
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err says how the child ended; nil means exit status 0. It blocks until Done.
func (c *Child) Err() error {
	<-c.done
	return c.err
}
