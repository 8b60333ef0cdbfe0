package pgserver_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"rootstream/pgserver"
)

func TestAFolderIsInUseWhileItsServerRuns(t *testing.T) {
	t.Parallel()
	s := started(t, config(t))
	if err := pgserver.InUse(s.DataDir()); !errors.Is(err, pgserver.ErrRunning) {
		t.Errorf("%v, want ErrRunning", err)
	}
	if err := s.Stop(t.Context(), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	if err := pgserver.InUse(s.DataDir()); err != nil {
		t.Errorf("%v after it stopped", err)
	}
	if err := pgserver.InUse(filepath.Join(home(t), "nothing")); err != nil {
		t.Errorf("%v of a folder that is not there", err)
	}
}

func TestAForeignClusterRunsWithItsOwnSettings(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s := server(t, cfg)
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("\nlisten_addresses = ''\nunix_socket_directories = '%s'\nport = 7777\nfsync = off\n", filepath.Dir(cfg.DataDir))
	if err := s.Account().Own(filepath.Dir(cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(cfg.DataDir, "postgresql.conf")
	before, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	before = append(before, own...)
	if err = os.WriteFile(conf, before, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Params, cfg.Foreign = nil, true
	foreign := server(t, cfg)
	if err = foreign.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if foreign.Port() != 7777 || foreign.SocketDir() != filepath.Dir(cfg.DataDir) {
		t.Errorf("it listens at %s:%d", foreign.SocketDir(), foreign.Port())
	}
	after, err := os.ReadFile(conf)
	if err != nil || string(after) != string(before) {
		t.Errorf("its settings were touched: %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "rootstream.conf")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was added: %v", err)
	}
	cfg.Params = map[string]string{"fsync": "off"}
	if _, err := pgserver.New(cfg); err == nil {
		t.Error("settings were accepted for a cluster that keeps its own")
	}
}

func TestALogGoesIntoNoFileThatALinkNames(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s := server(t, cfg)
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(home(t), "precious")
	if err := os.WriteFile(precious, []byte("of the machine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(old, name string) error{
		"a link": os.Symlink, "a second name": os.Link, "a pipe": func(_, name string) error { return syscall.Mkfifo(name, 0o600) },
	} {
		if err := errors.Join(os.RemoveAll(s.LogFile()), plant(precious, s.LogFile())); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); !errors.Is(err, pgserver.ErrAccess) {
			t.Errorf("%s in the place of the log: %v, want ErrAccess", name, err)
		}
		if said := s.Said(); said != "" {
			t.Errorf("%s in the place of the log was read: %q", name, said)
		}
	}
	if raw, err := os.ReadFile(precious); err != nil || string(raw) != "of the machine\n" {
		t.Errorf("%q, %v", raw, err)
	}
}

func TestAPipeInThePlaceOfAPIDFileHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	dir := home(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "postmaster.pid"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 1)
	go func() { said <- pgserver.InUse(dir) }()
	select {
	case err := <-said:
		if !errors.Is(err, pgserver.ErrAccess) {
			t.Errorf("%v, want ErrAccess", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for somebody to write into the pipe")
	}
}
