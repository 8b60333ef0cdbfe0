package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"rootstream/errs"
	"rootstream/internal/proc"
	"rootstream/internal/wait"
)

// Mode is how a server stops.
type Mode int

// The shutdown modes of PostgreSQL.
const (
	Smart     Mode = iota // waits for clients to leave
	Fast                  // disconnects clients, writes a checkpoint
	Immediate             // drops everything; the next start recovers
)

const (
	pollEvery    = 20 * time.Millisecond
	escalateWait = 10 * time.Second // what a harder mode gets before the next one
	orphanWait   = 5 * time.Second  // orphaned backends mostly notice their postmaster's death by themselves
)

// running is one postmaster, started or attached.
type running struct {
	id       proc.ID
	attached bool
	done     chan struct{}
	err      error         // valid after done
	cancel   func()        // ends the watch of an attached postmaster
	watched  chan struct{} // closed when the watching goroutine has returned
}

// Start starts a postmaster and waits until it accepts connections. It fails
// with ErrRunning if one is alive (use Attach), and stops what it started if
// ctx ends first, unless ctx ends with the cause ErrLeave.
func (s *Server) Start(ctx context.Context) error {
	switch done, err := s.Initialized(); {
	case err != nil:
		return err
	case !done:
		return ErrNoData.WithCause(errors.New(s.cfg.DataDir))
	}
	if id, st, err := s.live(); err == nil {
		return ErrRunning.WithCause(fmt.Errorf("process %d (%s)", id.PID, st.State))
	}
	if !s.cfg.Foreign {
		if err := s.makeSocketDir(); err != nil {
			return err
		}
		if err := s.writeConf(); err != nil {
			return err
		}
	}
	for _, id := range s.Orphans() {
		if !id.Gone(ctx, orphanWait) {
			return orphaned(s.Orphans(), nil)
		}
	}
	awaitBurial(ctx, s.cfg.DataDir)
	return s.startOnce(ctx)
}

func orphaned(ids []proc.ID, said error) *errs.Error {
	pids := make([]int, 0, len(ids))
	for _, id := range ids {
		pids = append(pids, id.PID)
	}
	return ErrOrphans.WithCause(errors.Join(fmt.Errorf("processes %v", pids), said)).WithHint("end these processes, then start again")
}

func (s *Server) startOnce(ctx context.Context) error {
	out, err := s.openLog()
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	var from int64
	if info, unknown := out.Stat(); unknown == nil {
		from = info.Size()
	}
	a := address{socketDir: s.cfg.SocketDir, port: s.cfg.Port, listen: s.cfg.Listen}
	if a.port == 0 {
		a.port = defaultPort
	}
	args := []string{"-D", s.cfg.DataDir}
	if !s.cfg.Foreign {
		args = append(args, "-c", "listen_addresses="+a.listen, "-c", fmt.Sprintf("port=%d", a.port),
			"-c", "unix_socket_directories="+quoteListItem(a.socketDir))
	}
	cmd := exec.Command(s.cfg.Installation.Bin("postgres"), args...) //nolint:gosec,noctx // outlives any context of ours
	cmd.Stdout, cmd.Stderr = out, out
	s.prepare(cmd)
	child, err := proc.Start(cmd, s.tie())
	if err != nil {
		return ErrStart.WithCause(err)
	}
	r := &running{id: child.ID, done: make(chan struct{}), cancel: func() {}, watched: make(chan struct{})}
	go func() {
		defer close(r.watched)
		r.err = child.Err()
		close(r.done)
	}()
	s.mu.Lock()
	s.run, s.addr = r, a
	s.mu.Unlock()
	if err := s.waitReady(ctx, r); err != nil {
		if errors.Is(context.Cause(ctx), ErrLeave) {
			return ErrLeave
		}
		if ctx.Err() != nil {
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), escalateWait)
			defer cancel()
			return errors.Join(ctx.Err(), s.Stop(stop, Fast))
		}
		return s.explain(err, s.logSince(from))
	}
	return nil
}

// explain turns what a dying postmaster said into an error a caller can act on.
func (s *Server) explain(err error, said string) error {
	cause := fmt.Errorf("%w: %s", err, lastLines(said, 6))
	switch {
	case strings.Contains(said, "pre-existing shared memory block"):
		return orphaned(s.Orphans(), cause)
	case strings.Contains(said, "Address already in use"), strings.Contains(said, "could not bind"),
		strings.Contains(said, "is already in use by"), strings.Contains(said, "lock file \"/"):
		if strings.Contains(said, "postmaster.pid") {
			return ErrRunning.WithCause(cause)
		}
		return ErrPortTaken.WithCause(cause)
	case strings.Contains(said, "Is another postmaster"):
		return ErrRunning.WithCause(cause)
	}
	return ErrStart.WithCause(cause).WithHint("see " + s.cfg.LogFile)
}

// Attach takes over the live postmaster of the data folder, as a successor of
// the process that started it; ErrNotRunning when there is none. It waits until connections are accepted.
func (s *Server) Attach(ctx context.Context) error {
	id, st, err := s.live()
	if err != nil {
		return err
	}
	if st.Standalone {
		return ErrRunning.WithCause(fmt.Errorf("process %d uses it in single-user mode", id.PID))
	}
	if st.State == "stopping" {
		if err := id.Wait(ctx); err != nil {
			return err
		}
		return ErrNotRunning
	}
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{id: id, attached: true, done: make(chan struct{}), cancel: cancel, watched: make(chan struct{})}
	go func() {
		defer close(r.watched)
		for watch.Err() == nil {
			if err := id.Wait(watch); err == nil {
				r.err = errors.New("an attached postmaster ended")
				close(r.done)
				return
			}
			_ = wait.For(watch, pollEvery) // without process descriptors, look again and again
		}
	}()
	s.mu.Lock()
	s.run = r
	s.mu.Unlock()
	if err := s.waitReady(ctx, r); err != nil {
		s.Release()
		if !id.Alive() {
			return ErrNotRunning.WithCause(err)
		}
		return err
	}
	return nil
}

// Release forgets an attached postmaster without touching it. For a started one it does nothing: it is our child.
func (s *Server) Release() {
	s.mu.Lock()
	r := s.run
	if r != nil && r.attached {
		s.run = nil
	}
	s.mu.Unlock()
	if r != nil && r.attached {
		r.cancel()
		<-r.watched
	}
}

// live returns the postmaster of the data folder, if it truly is one.
func (s *Server) live() (proc.ID, Status, error) { return live(s.cfg.DataDir) }

// InUse returns ErrRunning or ErrOrphans while processes of PostgreSQL work in a data folder.
func InUse(dataDir string) error {
	switch id, _, err := live(dataDir); {
	case err == nil:
		return ErrRunning.WithCause(fmt.Errorf("process %d on %s", id.PID, dataDir)).
			WithHint("stop it first, or use another folder")
	case !errors.Is(err, ErrNotRunning):
		return err
	}
	if ids := orphans(dataDir); len(ids) > 0 {
		return orphaned(ids, nil)
	}
	return nil
}

func live(dataDir string) (proc.ID, Status, error) {
	st, err := ReadStatus(dataDir)
	if err != nil {
		return proc.ID{}, st, err
	}
	id, err := proc.Of(st.PID)
	if err != nil {
		return id, st, ErrNotRunning.WithCause(err)
	}
	name, cwd := proc.Command(st.PID)
	if !strings.HasPrefix(name, "postgres") && !strings.HasPrefix(name, "postmaster") {
		return id, st, ErrNotRunning.WithCause(fmt.Errorf("process %d is %s", st.PID, name))
	}
	if cwd != "" {
		real, err := filepath.EvalSymlinks(dataDir)
		if err == nil && cwd != real {
			return id, st, ErrNotRunning.WithCause(fmt.Errorf("process %d works in another folder", st.PID))
		}
		return id, st, nil
	}
	const slack = 5 * time.Second
	if at, err := id.StartedAt(); err == nil && at.Sub(st.StartedAt).Abs() > slack {
		return id, st, ErrNotRunning.WithCause(fmt.Errorf("process %d started at another time", st.PID))
	}
	return id, st, nil
}

// waitReady waits until r's postmaster says it is ready and answers on its socket.
func (s *Server) waitReady(ctx context.Context, r *running) error {
	for {
		st, err := ReadStatus(s.cfg.DataDir)
		if err == nil && st.PID == r.id.PID && (st.State == "ready" || st.State == "standby") {
			s.mu.Lock()
			s.addr = address{socketDir: st.SocketDir, port: st.Port, listen: st.Listen}
			s.mu.Unlock()
			if s.Ping(ctx) == nil {
				return nil
			}
		}
		select {
		case <-r.done:
			return fmt.Errorf("postmaster ended while starting: %w", r.err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// Stop ends the postmaster in the mode given. When ctx ends before it is gone, harder modes follow.
// A server that does not run is stopped already.
func (s *Server) Stop(ctx context.Context, mode Mode) error {
	s.mu.Lock()
	r := s.run
	s.mu.Unlock()
	if r == nil {
		id, _, err := s.live()
		if err != nil {
			return nil // nothing runs
		}
		r = &running{id: id}
	}
	defer s.Release()
	patience := ctx
	for ; mode <= Immediate+1; mode++ {
		sig := [...]syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}[mode]
		if err := r.id.Signal(sig); err != nil && !errors.Is(err, proc.ErrGone) {
			return fmt.Errorf("stop PostgreSQL: %w", err)
		}
		if r.gone(patience) {
			return nil
		}
		s.cfg.Logger.WarnContext(ctx, "postgres does not stop, asking harder", "pid", r.id.PID, "signal", sig.String())
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), escalateWait)
		defer cancel() // at most three
		patience = wait
	}
	return ErrRunning.WithCause(fmt.Errorf("process %d does not end", r.id.PID))
}

func (r *running) gone(ctx context.Context) bool {
	if r.done == nil || r.attached {
		return r.id.Wait(ctx) == nil
	}
	select {
	case <-r.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// Done is closed when the postmaster has ended; nil, which blocks for ever, when none was started.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return nil
	}
	return s.run.done
}

// Err says how the postmaster ended. It is valid after Done.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return nil
	}
	select {
	case <-s.run.done:
		return s.run.err
	default:
		return nil
	}
}

// Process returns the postmaster; false when none was started or attached.
func (s *Server) Process() (proc.ID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return proc.ID{}, false
	}
	return s.run.id, true
}

// Reload makes the postmaster read its configuration again, after writing Params.
func (s *Server) Reload() error {
	id, ok := s.Process()
	if !ok {
		return ErrNotRunning
	}
	if err := s.writeConf(); err != nil {
		return err
	}
	return id.Signal(syscall.SIGHUP)
}

// Orphans returns processes that work in the data folder although no postmaster lives.
func (s *Server) Orphans() []proc.ID {
	if _, _, err := s.live(); err == nil {
		return nil
	}
	return orphans(s.cfg.DataDir)
}

func orphans(dataDir string) []proc.ID {
	real, err := filepath.EvalSymlinks(dataDir)
	if err != nil {
		return nil
	}
	var ids []proc.ID
	for _, pid := range proc.List() {
		if name, cwd := proc.Command(pid); cwd == real && strings.HasPrefix(name, "postgres") {
			if id, err := proc.Of(pid); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// EndOrphans ends what a killed postmaster left. Its backends can take no new
// transaction to the disk of a successor, but a busy one keeps it from starting.
func (s *Server) EndOrphans(ctx context.Context) {
	ids := s.Orphans()
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		for _, id := range ids {
			if err := id.Signal(sig); err == nil {
				s.cfg.Logger.WarnContext(ctx, "ending a process of a dead postmaster", "pid", id.PID, "signal", sig.String())
			}
		}
		for _, id := range ids {
			id.Gone(ctx, 2*time.Second)
		}
	}
}

func quoteListItem(v string) string { return `"` + strings.ReplaceAll(v, `"`, `""`) + `"` }
