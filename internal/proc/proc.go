// Package proc knows operating system processes by more than their number.
//
// A process number is used again after its owner is gone, so an [ID] also
// carries the start time and the boot it belongs to: a signal sent through an
// ID never hits a stranger. [Start] runs a child that is waited for, and that
// may be tied to the life of this process; [Account] drops privileges for it.
// Linux only: it reads /proc and uses process file descriptors.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process of an ID no longer runs.
var ErrGone = errors.New("the process is gone")

// ID names one process, for ever: numbers are reused, an ID is not.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
	Boot  string `json:"boot"`  // the kernel's boot id
}

// Of returns the ID of the process that has the number pid now.
func Of(pid int) (ID, error) {
	st, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	if st.dead() {
		return ID{}, ErrGone
	}
	return ID{PID: pid, Start: st.start, Boot: bootID()}, nil
}

// Self returns the ID of this process.
func Self() (ID, error) { return Of(os.Getpid()) }

// Alive reports whether the process still runs; a zombie does not.
func (id ID) Alive() bool {
	if id.PID <= 0 || (id.Boot != "" && id.Boot != bootID()) {
		return false
	}
	st, err := readStat(id.PID)
	return err == nil && !st.dead() && st.start == id.Start
}

// Unburied reports whether process pid has ended but its parent has not asked how: to those who only try to signal it,
// it still looks alive.
func Unburied(pid int) bool {
	st, err := readStat(pid)
	return err == nil && st.dead()
}

// Signal sends sig to the process, and to no later owner of its number.
func (id ID) Signal(sig syscall.Signal) error {
	fd, err := id.open()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return err
}

// Wait blocks until the process is gone (nil) or ctx ends. It need not be a child.
func (id ID) Wait(ctx context.Context) error {
	fd, err := id.open()
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	// The runtime's poller waits for the descriptor, so no thread is held.
	file := os.NewFile(uintptr(fd), "pidfd")
	defer func() { _ = file.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(func(uintptr) bool { return !id.Alive() })
	if ctx.Err() != nil && id.Alive() {
		return ctx.Err()
	}
	if err != nil && id.Alive() {
		return fmt.Errorf("wait for process %d: %w", id.PID, err)
	}
	return nil
}

// Gone reports whether the process is gone within d.
func (id ID) Gone(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return id.Wait(ctx) == nil
}

func (id ID) open() (int, error) {
	if !id.Alive() {
		return -1, ErrGone
	}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return -1, ErrGone
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	if !id.Alive() { // the number changed hands before we held it
		_ = unix.Close(fd)
		return -1, ErrGone
	}
	return fd, nil
}

// Command returns the command name and, where this user may see it, the working folder of process pid.
func Command(pid int) (name, cwd string) {
	if st, err := readStat(pid); err == nil {
		name = st.name
	}
	cwd, _ = os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	return name, cwd
}

// List returns the numbers of all processes this user can see.
func List() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// StartedAt returns the wall-clock time the process started, to about a second.
func (id ID) StartedAt() (time.Time, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			boot, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err != nil {
				return time.Time{}, fmt.Errorf("read boot time: %w", err)
			}
			const ticks = 100                                                                 // USER_HZ, fixed by the kernel's interface
			return time.Unix(boot, 0).Add(time.Duration(id.Start) * time.Second / ticks), nil //nolint:gosec // ticks since boot fit
		}
	}
	return time.Time{}, errors.New("read boot time: no btime line")
}

type stat struct {
	name  string
	state byte
	start uint64
}

func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return stat{}, ErrGone
	}
	if err != nil {
		return stat{}, err
	}
	return parseStat(raw)
}

// parseStat reads /proc/PID/stat; the name may itself hold spaces and parentheses.
func parseStat(raw []byte) (stat, error) {
	from, to := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	if from < 0 || to < from {
		return stat{}, errors.New("read process state: no name in it")
	}
	fields := strings.Fields(string(raw[to+1:]))
	const state, start = 0, 19 // fields 3 and 22 of proc(5)
	if len(fields) <= start {
		return stat{}, errors.New("read process state: it is cut short")
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("read process state: %w", err)
	}
	return stat{name: string(raw[from+1 : to]), state: fields[state][0], start: ticks}, nil
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
