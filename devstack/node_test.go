package devstack_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rootstream/devstack"
	"rootstream/errs"
	"rootstream/internal/proc"
	"rootstream/pgserver"
)

func nodeConfig(t *testing.T) devstack.NodeConfig {
	t.Helper()
	in, err := pgserver.Find(0)
	if err != nil {
		t.Fatal(err)
	}
	dir := home(t)
	return devstack.NodeConfig{
		Server: pgserver.Config{
			Installation: in, DataDir: filepath.Join(dir, "data"), NoSync: true, DieWithParent: true,
			Params: map[string]string{"fsync": "off", "shared_buffers": "16MB"},
		},
		StatusFile: filepath.Join(dir, "status"), Database: "app", Owner: "app", DSNFile: filepath.Join(dir, "dsn"),
	}
}

func status(t *testing.T, cfg devstack.NodeConfig) devstack.NodeStatus {
	t.Helper()
	var st devstack.NodeStatus
	raw, err := os.ReadFile(cfg.StatusFile)
	if err == nil {
		err = json.Unmarshal(raw, &st)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return st
}

// run runs a node until stop is called, which returns how it ended.
func runNode(t *testing.T, cfg devstack.NodeConfig) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- devstack.RunNode(ctx, cfg) }()
	stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func postmasterOf(t *testing.T, cfg devstack.NodeConfig) proc.ID {
	t.Helper()
	id, err := proc.Of(status(t, cfg).Postmaster)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// This test owns the process' SIGUSR1, so it is not parallel to another one that sends it.
func TestANodeToldToLeaveLeavesThePostmasterToItsSuccessor(t *testing.T) {
	cfg := nodeConfig(t)
	first := runNode(t, cfg)
	ready := func() bool { return status(t, cfg).State == devstack.StateReady }
	eventually(t, "the node is ready", ready)
	postmaster := postmasterOf(t, cfg)
	t.Cleanup(func() { _ = postmaster.Signal(syscall.SIGQUIT) })

	if err := devstack.RunNode(t.Context(), cfg); !errors.Is(err, devstack.ErrLocked) {
		t.Errorf("a second node on the same data: %v", err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node leaves", func() bool { return status(t, cfg).State == devstack.StateLeft })
	if err := first(); err != nil {
		t.Errorf("leaving: %v", err)
	}
	if !postmaster.Alive() {
		t.Fatal("the postmaster was stopped")
	}

	second := runNode(t, cfg)
	eventually(t, "the successor is ready", ready)
	if st := status(t, cfg); !st.Attached || st.Postmaster != postmaster.PID {
		t.Errorf("the successor says %+v", st)
	}
	// The successor restarts a postmaster it did not start, busy or not.
	if err := postmaster.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "PostgreSQL is restarted", func() bool {
		st := status(t, cfg)
		return st.State == devstack.StateReady && st.Postmaster != postmaster.PID && st.Restarts == 1
	})
	next := postmasterOf(t, cfg)
	if err := second(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if st := status(t, cfg); next.Alive() || st.State != devstack.StateStopped {
		t.Errorf("after the stop: %+v, postmaster alive: %v", st, next.Alive())
	}
}

func TestANodeThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	cfg := nodeConfig(t)
	cfg.Server.Params["shared_buffers"] = "lots"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := devstack.RunNode(ctx, cfg)
	if !errors.Is(err, pgserver.ErrStart) || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("RunNode = %v", err)
	}
	if st := status(t, cfg); st.State != devstack.StateFailed || !strings.Contains(st.Error, "shared_buffers") {
		t.Errorf("status %+v", st)
	}
}

func TestAFailingNodeDoesNotStopAPostmasterItFound(t *testing.T) {
	t.Parallel()
	cfg := nodeConfig(t)
	s, err := pgserver.New(cfg.Server)
	if err != nil {
		t.Fatal(err)
	}
	if err = s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err = s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.WithoutCancel(t.Context()), pgserver.Immediate) })
	cfg.Owner = "not a name"
	if err = devstack.RunNode(t.Context(), cfg); err == nil {
		t.Error("a bad owner was accepted")
	}
	if id, _ := s.Process(); !id.Alive() {
		t.Error("the postmaster was stopped")
	}
}

func TestANodeRunsAloneInANewFolder(t *testing.T) {
	t.Parallel()
	l, err := devstack.Plan(devstack.Config{DataDir: filepath.Join(t.TempDir(), "new"), RedisServer: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := l.Node()
	cfg.Server.NoSync, cfg.Server.DieWithParent = true, true
	stop := runNode(t, cfg)
	eventually(t, "the node is ready", func() bool { return status(t, cfg).State == devstack.StateReady })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What is gone must be restored: an empty cluster in its place would look as if all were well.
func TestANodePutsNoEmptyClusterInThePlaceOfOneThatIsGone(t *testing.T) {
	t.Parallel()
	cfg := nodeConfig(t)
	stop := runNode(t, cfg)
	eventually(t, "the node is ready", func() bool { return status(t, cfg).State == devstack.StateReady })
	id := postmasterOf(t, cfg)
	aside := cfg.Server.DataDir + ".aside"
	if err := os.Rename(cfg.Server.DataDir, aside); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(id.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node says what is wrong", func() bool {
		return strings.Contains(status(t, cfg).Error, devstack.ErrClusterGone.Message)
	})
	if err := stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	err := devstack.RunNode(t.Context(), cfg)
	if !errors.Is(err, devstack.ErrClusterGone) || !strings.Contains(errs.Of(err).Hint, "backup restore latest --to "+cfg.Server.DataDir) {
		t.Errorf("the next node = %v", err)
	}
	if _, err = os.Stat(cfg.Server.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data folder was made anew: %v", err)
	}
	if err = os.Rename(aside, cfg.Server.DataDir); err != nil {
		t.Fatal(err)
	}
	again := runNode(t, cfg)
	eventually(t, "the node is ready with what came back", func() bool { return status(t, cfg).State == devstack.StateReady })
	if err = again(); err != nil {
		t.Errorf("stopping: %v", err)
	}
}
