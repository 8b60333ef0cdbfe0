package pgserver_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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
