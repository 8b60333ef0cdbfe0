package proc

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Stamp names a process to those who may be elsewhere: on another machine, or in another container of this one.
type Stamp struct {
	ID

	Space string `json:"space"` // the namespaces in which the number and the start time mean something
}

// OwnStamp names this process; it is empty where the system does not tell enough, and then proves nothing.
func OwnStamp() Stamp {
	pid := strconv.Itoa(os.Getpid())
	if shown, err := os.Readlink("/proc/self"); err != nil || shown != pid {
		return Stamp{} // the table of processes is that of another namespace
	}
	id, err := Self()
	space, unknown := os.Readlink("/proc/self/ns/pid")
	if err != nil || unknown != nil || id.Boot == "" {
		return Stamp{}
	}
	clock, _ := os.Readlink("/proc/self/ns/time") // kernels before 5.6 have none
	return Stamp{ID: id, Space: space + clock}
}

// Ended reports that the process is proven to be gone. Of one that ran elsewhere, or that cannot be seen, nothing is proven.
func (s Stamp) Ended() bool {
	own := OwnStamp()
	if s.Space == "" || s.Space != own.Space || s.Boot != own.Boot || s.PID <= 0 {
		return false
	}
	st, err := readStat(s.PID)
	if errors.Is(err, ErrGone) { // or hidden from us: then the kernel says that we may not signal it
		return errors.Is(unix.Kill(s.PID, 0), unix.ESRCH)
	}
	return err == nil && (st.dead() || st.start != s.Start)
}
