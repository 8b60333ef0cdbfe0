package pgserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"rootstream/internal/proc"
)

// ThrowawayConfig shapes a short-lived server. The zero value is ready.
type ThrowawayConfig struct {
	Installation Installation      // zero means the newest one found
	Dir          string            // parent of its folder; empty means the system's folder for temporary files
	Params       map[string]string // over the fast and unsafe defaults
	SocketOnly   bool              // no TCP port
	Survive      bool              // outlive this process
	RunAs        string            // as Config.RunAs
}

const throwawayPrefix = "rootstream-pg-"

// Throwaway makes and starts a server in a temporary folder, fast and without
// any care for its data. Call Discard when done; what a killed process left, the next call removes.
func Throwaway(ctx context.Context, cfg ThrowawayConfig) (*Server, error) {
	in := cfg.Installation
	if in.BinDir == "" {
		var err error
		if in, err = Find(0); err != nil { //nolint:contextcheck // a look at files, bounded by itself
			return nil, err
		}
	}
	parent := cfg.Dir
	if parent == "" {
		parent = os.TempDir()
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return nil, err
	}
	sweep(parent)
	account, err := accountFor(cfg.RunAs)
	if err != nil {
		return nil, err
	}
	self, err := proc.Self()
	if err != nil {
		return nil, err
	}
	base, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-%d-*", throwawayPrefix, self.PID, self.Start))
	if err != nil {
		return nil, ErrAccess.WithCause(err)
	}
	if err = account.Own(base); err != nil {
		return nil, errors.Join(ErrAccess.WithCause(err), os.RemoveAll(base))
	}
	s, err := startThrowaway(ctx, cfg, in, base)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(base))
	}
	return s, nil
}

func startThrowaway(ctx context.Context, cfg ThrowawayConfig, in Installation, base string) (*Server, error) {
	params := map[string]string{
		"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "300",
		"shared_buffers": "64MB", "max_wal_size": "256MB", "timezone": "UTC", "log_timezone": "UTC",
		"autovacuum_naptime": "10s", "log_checkpoints": "off",
	}
	maps.Copy(params, cfg.Params)
	for try := 0; ; try++ {
		port := 0
		if !cfg.SocketOnly {
			var err error
			if port, err = FreePort(ctx); err != nil {
				return nil, err
			}
		}
		s, err := New(Config{
			Installation: in, DataDir: filepath.Join(base, "data"), SocketDir: filepath.Join(base, "s"), Port: port,
			LogFile: filepath.Join(base, "log"), PassFile: filepath.Join(base, "pgpass"), Params: params,
			RunAs: cfg.RunAs, TrustLocal: true, NoSync: true, DieWithParent: !cfg.Survive,
		})
		if err != nil {
			return nil, err
		}
		if done, err := s.Initialized(); err != nil {
			return nil, err
		} else if !done {
			if err := s.Init(ctx); err != nil {
				return nil, err
			}
		}
		const tries = 5 // somebody may take the port between our look and the start
		if err := s.Start(ctx); errors.Is(err, ErrPortTaken) && try < tries {
			continue
		} else if err != nil {
			return nil, err
		}
		return s, nil
	}
}

// Discard stops a throw-away server at once and removes everything it had.
func (s *Server) Discard(ctx context.Context) error {
	base := filepath.Dir(s.cfg.DataDir)
	if _, ok := throwawayOwner(filepath.Base(base)); !ok {
		return errors.New("discard: not a throw-away server")
	}
	if err := s.Stop(ctx, Immediate); err != nil {
		return err
	}
	return os.RemoveAll(base)
}

// FreePort returns a TCP port on the loopback address that nobody listens on right now.
func FreePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("look for a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("look for a free port: no TCP address")
	}
	return addr.Port, nil
}

var throwawayName = regexp.MustCompile(`^` + throwawayPrefix + `(\d+)-(\d+)-`)

func throwawayOwner(name string) (proc.ID, bool) {
	m := throwawayName.FindStringSubmatch(name)
	if m == nil {
		return proc.ID{}, false
	}
	pid, err := strconv.Atoi(m[1])
	start, err2 := strconv.ParseUint(m[2], 10, 64)
	return proc.ID{PID: pid, Start: start}, err == nil && err2 == nil
}

// sweep removes throw-away folders whose maker and postmaster are both gone.
func sweep(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, throwawayPrefix+"*"))
	for _, dir := range dirs {
		owner, ok := throwawayOwner(filepath.Base(dir))
		if !ok || owner.Alive() {
			continue
		}
		if st, err := ReadStatus(filepath.Join(dir, "data")); err == nil {
			if _, err := proc.Of(st.PID); err == nil {
				continue
			}
		}
		_ = os.RemoveAll(dir) // another user's folder stays
	}
}
