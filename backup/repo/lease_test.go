package repo_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/backup/storage/file"
	"rootstream/errs"
)

// Set for a program that the tests run: the folder of the repository, and what it is killed at.
const (
	runIn      = "ROOTSTREAM_TEST_RUN"
	runAs      = "ROOTSTREAM_TEST_RUN_AS"
	storing    = "storing"
	committing = "committing"
)

// patient takes nobody for dead because of silence while a test lasts.
func patient() repo.Config {
	cfg := config()
	cfg.LeaseTTL = time.Hour
	return cfg
}

// runUntilKilled begins a backup, says so once it is as far as it is to come, and goes no further.
func runUntilKilled(dir, until string) error {
	st, err := file.Open(dir, true)
	if err != nil {
		return err
	}
	ctx, blocked := context.Background(), &brink{Storage: st, at: until}
	r, err := repo.Open(ctx, blocked, []repo.Key{fileKey("a")}, patient())
	if err != nil {
		return err
	}
	s, ctx, err := r.Begin(ctx, writer())
	if err != nil {
		return err
	}
	b, err := fill(ctx, r, s, plan{"a1", 1, nil})
	if err != nil {
		return err
	}
	settle(s)
	if until == committing {
		return s.Commit(ctx, &b.manifest)
	}
	blocked.stop()
	return nil
}

// brink is a storage that never comes to say that a backup counts.
type brink struct {
	storage.Storage
	at string
}

func (b *brink) stop() {
	fmt.Println("ready")
	select {}
}

func (b *brink) Put(ctx context.Context, name string, body []byte) error {
	err := b.Storage.Put(ctx, name, body)
	if b.at == committing && strings.HasSuffix(name, "/manifest") {
		b.stop()
	}
	return err
}

// another is a run in a process of its own, as far as it is to come.
func another(t *testing.T, dir, until string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), runIn+"="+dir, runAs+"="+until)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(pipe).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("it says %q, %v", line, err)
	}
	return cmd
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.Exited() {
		t.Fatalf("it ended by itself: %v", err)
	}
}

func openPatient(t *testing.T, dir string) *repo.Repo {
	t.Helper()
	st := storageIn(t, dir)
	r, err := repo.Open(t.Context(), st, []repo.Key{fileKey("a")}, patient())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestARunWhoseProcessWasKilledIsSucceededAtOnce(t *testing.T) {
	t.Parallel()
	for _, until := range []string{storing, committing} {
		t.Run(until, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := openPatient(t, dir)
			cmd := another(t, dir, until)
			if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if _, _, err := r.Begin(t.Context(), writer()); !errors.Is(err, repo.ErrLeaseHeld) || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
				t.Errorf("beside a run that is only stopped: %v", err)
			}
			kill(t, cmd)
			s, ctx := begin(t, r, writer())
			if ix, err := s.Resumable(ctx); err != nil || ix.Len() == 0 {
				t.Errorf("%d blobs of it are found, %v", ix.Len(), err)
			}
			if err := s.Abort(ctx); err != nil {
				t.Fatal(err)
			}
			next := take(t, r, "b2", 7, nil)
			if entries, err := r.Catalog(t.Context()); err != nil || len(entries) != 1 || entries[0].ID != "b2" {
				t.Errorf("the catalog has %v, %v", entries, err)
			}
			requireSound(t, r, next)
		})
	}
}

// A deletion need not wait for what will never end.
func TestADeletionDoesNotWaitForAKilledRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openPatient(t, dir)
	first := take(t, r, "b2", 7, nil)
	cmd := another(t, dir, committing)
	report, err := r.Delete(t.Context(), []string{first.manifest.ID}, false)
	if err != nil || len(report.Waiting) != 1 || report.Objects != 0 {
		t.Errorf("beside the run: %+v, %v", report, err)
	}
	kill(t, cmd)
	report, err = r.Collect(t.Context(), repo.CollectOptions{MinAge: time.Nanosecond})
	if err != nil || len(report.Waiting) != 0 || report.Objects == 0 {
		t.Errorf("after it was killed: %+v, %v", report, err)
	}
	if entries, err := r.Catalog(t.Context()); err != nil || len(entries) != 0 {
		t.Errorf("the catalog has %v, %v", entries, err)
	}
}

// only is the one file in a folder of the repository.
func only(t *testing.T, dir, prefix string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, prefix, "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s holds %v, %v", prefix, found, err)
	}
	return found[0]
}

// age makes the only object below prefix as old.
func age(t *testing.T, dir, prefix string, old time.Duration) {
	t.Helper()
	then := time.Now().Add(-old)
	if err := os.Chtimes(only(t, dir, prefix), then, then); err != nil {
		t.Fatal(err)
	}
}

// spoil cuts off the only object below prefix, as if that had happened so long ago, and returns its name.
func spoil(t *testing.T, dir, prefix string, old time.Duration) string {
	t.Helper()
	path := only(t, dir, prefix)
	body, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, body[:len(body)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	age(t, dir, prefix, old)
	return prefix + "/" + filepath.Base(path)
}

func TestADamagedLeaseBlocksOnlyWhileSomebodyMayHaveIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openPatient(t, dir)
	s, ctx := begin(t, r, writer())
	spoil(t, dir, "leases", 0)
	if _, _, err := r.Begin(t.Context(), writer()); !errors.Is(err, repo.ErrLeaseHeld) {
		t.Errorf("while its holder runs: %v", err)
	}
	if err := s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	requireSound(t, r, take(t, r, "b2", 7, nil))
}

func TestADamagedLeaseThatCannotBeReplacedIsNamedWithTheRemedy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openPatient(t, dir)
	take(t, r, "b2", 7, nil)
	lease := filepath.Join(dir, "leases", "writer")
	if err := os.WriteFile(lease, bytes.Repeat([]byte{1}, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := r.Begin(t.Context(), writer())
	if !errors.Is(err, repo.ErrDamaged) || !strings.Contains(errs.Of(err).Hint, "remove leases/writer from file://"+dir) {
		t.Fatalf("%v, hint %q", err, errs.Of(err).Hint)
	}
	if err := os.Remove(lease); err != nil {
		t.Fatal(err)
	}
	take(t, r, "c3", 8, nil)
}

func TestADamagedSessionIsNamedAndBlocksNobodyForEver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openPatient(t, dir)
	kill(t, another(t, dir, storing))
	name := spoil(t, dir, "sessions", 0)
	if _, _, err := r.Begin(t.Context(), writer()); !errors.Is(err, repo.ErrLeaseHeld) || !strings.Contains(err.Error(), name) {
		t.Errorf("while its run may live: %v", err)
	}
	if entries, err := r.Catalog(t.Context()); err != nil || len(entries) != 0 {
		t.Errorf("the catalog has %v, %v", entries, err)
	}
	spoil(t, dir, "sessions", 2*time.Hour)
	next := take(t, r, "b2", 7, nil)
	if _, err := r.Collect(t.Context(), repo.CollectOptions{MinAge: time.Nanosecond}); err != nil {
		t.Error(err)
	}
	requireRestores(t, r, next)
	if said, err := look(t.Context(), dir); err != nil || len(said) != 1 || !strings.Contains(said[0], name) {
		t.Errorf("verification says %v, %v", said, err)
	}
}

// Whether a backup counts can be said by its session alone: without it the backup is listed as what it is, and what it needs stays.
func TestABackupWhoseSessionIsDamagedIsListedAsDoubtful(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openPatient(t, dir)
	other := take(t, r, "b2", 7, nil)
	kill(t, another(t, dir, committing))
	name := spoil(t, dir, "sessions", 2*time.Hour)
	entries, err := r.Catalog(t.Context())
	if err != nil || len(entries) != 2 || entries[0].ID != "a1" || !errors.Is(entries[0].Err, repo.ErrDamaged) || entries[1].Err != nil {
		t.Fatalf("the catalog has %v, %v", entries, err)
	}
	_, err = r.Manifest(t.Context(), "a1")
	for _, err := range []error{entries[0].Err, err} {
		if !errors.Is(err, repo.ErrDamaged) || !strings.Contains(err.Error(), name) || !strings.Contains(errs.Of(err).Hint, "remove "+name) {
			t.Errorf("%v, hint %q", err, errs.Of(err).Hint)
		}
	}
	if _, err := r.Collect(t.Context(), repo.CollectOptions{MinAge: time.Nanosecond}); err != nil {
		t.Error(err)
	}
	requireRestores(t, r, other)
	if err := os.Remove(filepath.Join(dir, name)); err != nil { // the remedy
		t.Fatal(err)
	}
	if said, err := look(t.Context(), dir); err != nil || len(said) > 0 {
		t.Errorf("verification says %v, %v", said, err)
	}
	if got, err := restore(t.Context(), r, "a1"); err != nil || len(got) == 0 {
		t.Errorf("%d files come back, %v", len(got), err)
	}
}

func TestADamagedIntentIsNamedWithTheRemedy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openPatient(t, dir)
	take(t, r, "b2", 7, nil)
	cmd := another(t, dir, storing)
	if _, err := r.Delete(t.Context(), []string{"b2"}, false); err != nil {
		t.Fatal(err)
	}
	kill(t, cmd)
	name := spoil(t, dir, "intents", 0)
	_, _, err := r.Begin(t.Context(), writer())
	if !errors.Is(err, repo.ErrDamaged) || !strings.Contains(err.Error(), name) || !strings.Contains(errs.Of(err).Hint, "remove "+name) {
		t.Fatalf("%v, hint %q", err, errs.Of(err).Hint)
	}
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	requireSound(t, r, take(t, r, "c3", 8, nil))
}
