package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"rootstream/internal/proc"
)

// Initialized reports whether the data folder holds a cluster this server's binaries can run.
// A folder with anything else in it is an error.
func (s *Server) Initialized() (bool, error) {
	if err := s.account.CanEnter(filepath.Dir(s.cfg.DataDir)); err != nil {
		return false, ErrAccess.WithCause(err).WithHint("choose another data folder, or let the user pass: chmod o+x")
	}
	major, err := DataVersion(s.cfg.DataDir)
	if errors.Is(err, ErrNoData) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if major != s.cfg.Installation.Major {
		return false, wrongVersion(s.cfg.DataDir, major, []Installation{s.cfg.Installation})
	}
	return true, nil
}

// Init makes the data folder: checksums, UTF8, C.UTF-8, scram-sha-256 and a generated password.
// It appears in one step, so a crash on the way leaves nothing that looks like a cluster.
func (s *Server) Init(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(s.cfg.DataDir), 0o755); err != nil { //nolint:gosec // others pass through, the data folder is private
		return ErrAccess.WithCause(err)
	}
	switch done, err := s.Initialized(); {
	case err != nil:
		return err
	case done:
		return ErrNotEmpty.WithCause(fmt.Errorf("%s already holds a cluster", s.cfg.DataDir))
	}
	pass, err := s.ensurePass(s.cfg.Superuser)
	if err != nil {
		return err
	}
	work := s.cfg.DataDir + ".init"
	if err := os.RemoveAll(work); err != nil { // what a killed predecessor left
		return ErrAccess.WithCause(err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := s.account.MkdirAll(work); err != nil {
		return ErrAccess.WithCause(err)
	}
	target := filepath.Join(work, "data")
	// An empty data folder that cannot be replaced is a mount point: fill it in place.
	if err := os.Remove(s.cfg.DataDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		target = s.cfg.DataDir
	}
	if err := s.account.MkdirAll(target); err != nil {
		return ErrAccess.WithCause(err)
	}
	if err := s.initdb(ctx, target, filepath.Join(work, "password"), pass); err != nil {
		return err
	}
	if target == s.cfg.DataDir {
		return nil
	}
	if err := os.Rename(target, s.cfg.DataDir); err != nil {
		return ErrAccess.WithCause(err)
	}
	return s.syncParent()
}

func (s *Server) syncParent() error {
	if s.cfg.NoSync {
		return nil
	}
	dir, err := os.Open(filepath.Dir(s.cfg.DataDir))
	if err != nil {
		return ErrAccess.WithCause(err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (s *Server) initdb(ctx context.Context, dir, passPath, pass string) error {
	if err := s.account.WriteFile(passPath, pass+"\n", false); err != nil {
		return ErrAccess.WithCause(err)
	}
	local := "scram-sha-256"
	if s.cfg.TrustLocal {
		local = "trust"
	}
	args := []string{
		"--pgdata=" + dir, "--username=" + s.cfg.Superuser, "--pwfile=" + passPath,
		"--auth-host=scram-sha-256", "--auth-local=" + local,
		"--data-checksums", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions",
	}
	if s.cfg.NoSync {
		args = append(args, "--no-sync")
	}
	var out bytes.Buffer
	cmd := exec.Command(s.cfg.Installation.Bin("initdb"), args...) //nolint:gosec,noctx // ended below by signal: a kill would leave its children
	cmd.Stdout, cmd.Stderr = &out, &out
	s.prepare(cmd)
	// Without us nobody would move its work into place, so it always ends with us.
	child, err := proc.Start(cmd, syscall.SIGTERM)
	if err != nil {
		return fmt.Errorf("start initdb: %w", err)
	}
	select {
	case <-child.Done():
	case <-ctx.Done():
		_ = child.ID.Signal(syscall.SIGTERM) // it removes what it made
		<-child.Done()
		return ctx.Err()
	}
	if err := child.Err(); err != nil {
		return ErrStart.WithCause(fmt.Errorf("initdb: %w: %s", err, lastLines(out.String(), 4)))
	}
	return nil
}

// prepare makes cmd run as the server's user, in a session of its own so that a
// terminal's Ctrl-C reaches only us, and without our environment's secrets.
func (s *Server) prepare(cmd *exec.Cmd) {
	cmd.Dir = "/"
	cmd.Env = childEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.account.Credential(), Setsid: true}
}

func (s *Server) tie() syscall.Signal {
	if s.cfg.DieWithParent {
		return syscall.SIGQUIT // immediate shutdown, which takes the backends along
	}
	return 0
}

func childEnv() []string {
	env := []string{"LC_ALL=C.UTF-8"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "TZ", "TMPDIR", "GORACE"} { // the last is for a test's archive_command
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}
