package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"rootstream/internal/proc"
	"rootstream/pgserver"
	"rootstream/postgres"
)

// throwaway is a server that is backed up.
func throwaway(t *testing.T) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{Params: map[string]string{"wal_level": "replica"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Discard(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestBackupScripts types what people type about backups, with servers of its own.
func TestBackupScripts(t *testing.T) {
	t.Parallel()
	server, other := throwaway(t), throwaway(t)
	db, err := postgres.Open(t.Context(), postgres.Config{DSN: server.DSN("postgres"), MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(t.Context(), "create role weak login")
	db.Close()
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("testdata/backup/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	commands := scriptCommands()
	commands["spoil"], commands["heal"] = flip, flip
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			testscript.Run(t, testscript.Params{
				Files: []string{script}, RequireExplicitExec: true, RequireUniqueNames: true, Cmds: commands, Setup: func(e *testscript.Env) error {
					e.Setenv("ROOTSTREAM_BACKUP_REPO", "file://"+e.WorkDir+"/repo")
					e.Setenv("ROOTSTREAM_BACKUP_KEY_FILE", "key")
					e.Setenv("ROOTSTREAM_BACKUP_DSN", server.DSN("postgres"))
					e.Setenv("ROOTSTREAM_BACKUP_PGDATA", server.DataDir())
					e.Setenv("DSN", server.DSN("postgres"))
					e.Setenv("WEAKDSN", fmt.Sprintf("host=%s port=%d user=weak dbname=postgres", server.SocketDir(), server.Port()))
					e.Setenv("OTHERDSN", other.DSN("postgres"))
					e.Setenv("OTHERDATA", other.DataDir())
					e.Setenv("PLACE", serverFolder(t))
					e.Setenv("HOME", e.WorkDir)
					e.Setenv("GOCOVERDIR", os.Getenv("GOCOVERDIR"))
					e.Setenv("GORACE", os.Getenv("GORACE"))
					return nil
				},
			})
		})
	}
}

// serverFolder is a folder that PostgreSQL's user can enter and owns.
func serverFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rootstream-restored-") //nolint:usetesting // the test's own folder is closed to PostgreSQL's user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	account, err := proc.Unprivileged("postgres")
	if os.Geteuid() != 0 {
		account, err = proc.Current()
	}
	if err == nil {
		err = account.Own(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// flip turns one bit in the middle of the largest file below a folder; a second time turns it back.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	largest, size := "", int64(0)
	ts.Check(filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	}))
	raw, err := os.ReadFile(largest)
	ts.Check(err)
	again := bytes.Clone(raw)
	again[len(again)/2] ^= 1
	ts.Check(os.WriteFile(largest, again, 0o600))
}
