package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rootstream/backup/archive"
	"rootstream/backup/repo"
	"rootstream/backup/storage/file"
	"rootstream/internal/proc"
	"rootstream/secret"
)

const relayed1 = "1\t0/3000000\tno recovery target specified\n"

// relaying is a relay at work, and the folder of the repository that it fetches from.
func relaying(t *testing.T, system uint64) (r *relay, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "repo")
	st, err := file.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	key := repo.Key{Kind: repo.KeyFile, Secret: secret.FromString(strings.Repeat("k", 40))}
	rp, err := repo.Open(t.Context(), st, []repo.Key{key}, repo.Config{Create: true})
	if err == nil {
		err = rp.PutWAL(t.Context(), 7, "00000002.history", []byte(relayed1))
	}
	if err != nil {
		t.Fatal(err)
	}
	user, err := proc.Current()
	if err != nil {
		t.Fatal(err)
	}
	if r, err = newRelay(archive.Source{Repo: rp, System: system}, user, t.TempDir(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { r.run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		r.close()
	})
	return r, dir
}

// asPostgreSQL runs a restore_command as PostgreSQL does, and returns how it ended.
func asPostgreSQL(t *testing.T, command, name, dest string) int {
	t.Helper()
	line := strings.NewReplacer("%f", name, "%p", dest, "%%", "%").Replace(command)
	err := exec.CommandContext(t.Context(), "sh", "-c", line).Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// PostgreSQL takes 1 for the end of the log and promotes; 255 stops it.
func TestTheRelayEndsARecoveryOnlyOnProvenAbsence(t *testing.T) {
	t.Parallel()
	known, dir := relaying(t, 7)
	foreign, _ := relaying(t, 8)
	dest := filepath.Join(t.TempDir(), "RECOVERYHISTORY")
	if code := asPostgreSQL(t, known.command(), "00000002.history", dest); code != 0 {
		t.Errorf("what is there: %d", code)
	}
	if got, err := os.ReadFile(dest); err != nil || string(got) != relayed1 {
		t.Errorf("delivered is %q, %v", got, err)
	}
	orphan := strings.ReplaceAll(known.command(), fmt.Sprintf("/proc/%d", os.Getpid()), "/proc/999999999")
	for _, tt := range []struct {
		what, command, name string
		want                int
		before              func() error
	}{
		{"proven absence", known.command(), "00000009.history", 1, nil},
		{"a cluster that the repository does not know", foreign.command(), "00000009.history", 255, nil},
		{"no name of a file", known.command(), "etc", 255, nil},
		{"a program that is gone", orphan, "00000009.history", 255, nil},
		{"a place that cannot be written", known.command(), "00000002.history", 255, func() error { return os.MkdirAll(filepath.Join(dest+"2", "x"), 0o700) }},
		{"a repository that cannot be read", known.command(), "00000009.history", 255, func() error {
			return errors.Join(os.Rename(filepath.Join(dir, "clusters"), filepath.Join(dir, "away")), os.WriteFile(filepath.Join(dir, "clusters"), nil, 0o600))
		}},
		{"a folder that is gone", known.command(), "00000009.history", 255, func() error { return os.RemoveAll(known.dir) }},
	} {
		if tt.before != nil {
			if err := tt.before(); err != nil {
				t.Fatal(err)
			}
		}
		place := dest + "1"
		if tt.name == "00000002.history" {
			place = filepath.Join(dest+"2", "nowhere", "x")
		}
		if code := asPostgreSQL(t, tt.command, tt.name, place); code != tt.want {
			t.Errorf("%s: it ends with %d, not %d", tt.what, code, tt.want)
		}
		if _, err := os.Stat(place); err == nil {
			t.Errorf("%s: something is delivered", tt.what)
		}
	}
}
