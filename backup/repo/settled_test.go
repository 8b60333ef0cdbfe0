package repo_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/errs"
)

// versions is a storage that keeps every version of the records of runs, as those with versions or object lock do.
type versions struct {
	storage.Storage
	mu   sync.Mutex
	kept map[string][][]byte
}

func (v *versions) Swap(ctx context.Context, name string, body []byte, tag string) (string, error) {
	tag, err := v.Storage.Swap(ctx, name, body, tag)
	if err == nil && strings.HasPrefix(name, "sessions/") {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.kept[name] = append(v.kept[name], bytes.Clone(body))
	}
	return tag, err
}

// records are the versions of the only run's record so far; all of them are forgotten.
func (v *versions) records(t *testing.T) (name string, bodies [][]byte) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.kept) != 1 {
		t.Fatalf("there were %d runs", len(v.kept))
	}
	for name, bodies = range v.kept {
	}
	clear(v.kept)
	return name, bodies
}

func keepVersions(t *testing.T) (dir string, v *versions) {
	t.Helper()
	dir = t.TempDir()
	st := storageIn(t, dir)
	return dir, &versions{Storage: st, kept: map[string][][]byte{}}
}

// put writes an object past the repository, as if that had been so long ago.
func put(t *testing.T, path string, body []byte, old time.Duration) {
	t.Helper()
	then := time.Now().Add(-old)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, body, 0o600), os.Chtimes(path, then, then)); err != nil {
		t.Fatal(err)
	}
}

func markPath(dir, id string) string {
	return filepath.Join(dir, "clusters", "7312345678901234567", "backups", id, "settled")
}

// requireListed wants exactly these backups, without a fault.
func requireListed(t *testing.T, r *repo.Repo, ids ...string) {
	t.Helper()
	entries, err := r.Catalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.ID)
		if e.Err != nil {
			t.Errorf("%s: %v", e.ID, e.Err)
		}
	}
	if !slices.Equal(got, ids) {
		t.Errorf("the catalog has %v, want %v", got, ids)
	}
}

const (
	silent    = time.Hour           // longer than a run may be
	longSince = 30 * 24 * time.Hour // nobody needs to know of it any more
)

func collect(t *testing.T, r *repo.Repo) {
	t.Helper()
	if _, err := r.Collect(t.Context(), repo.CollectOptions{MinAge: time.Nanosecond}); err != nil {
		t.Error(err)
	}
}

// Whatever record of its run is put back later, a backup that counts goes on counting, and nothing of it is deleted.
func TestABackupThatCountsOutlivesEveryOldRecordOfItsRun(t *testing.T) {
	t.Parallel()
	dir, st := keepVersions(t)
	r := open(t, st)
	b := take(t, r, "a1", 1, nil)
	name, bodies := st.records(t)
	if len(bodies) < 4 {
		t.Fatalf("the record had %d versions", len(bodies))
	}
	for i, body := range bodies {
		for _, old := range []time.Duration{0, silent, longSince} {
			put(t, filepath.Join(dir, name), body, old)
			requireListed(t, r, "a1")
			requireRestores(t, r, b)
			collect(t, r)
			requireListed(t, r, "a1")
			requireRestores(t, r, b)
			requireSound(t, r)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil { // it says dead now, and stays for a while
			age(t, dir, "sessions", longSince)
		}
		collect(t, r)
		requireListed(t, r, "a1")
		if _, err := os.Stat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("version %d is still there: %v", i, err)
		}
	}
	put(t, filepath.Join(dir, name), []byte("not a record"), 0)
	requireListed(t, r, "a1")
	requireRestores(t, r, b)
}

// What is known of a dead run names the manifest that it wrote; if another wrote one of that name since, that counts.
func TestABackupThatCountsOutlivesTheRecordOfADeadRunThatNamesItsManifest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kill(t, another(t, dir, committing)) // of a1
	r := openPatient(t, dir)
	b := take(t, r, "a1", 7, nil)
	requireListed(t, r, "a1")
	age(t, dir, "sessions", longSince)
	collect(t, r)
	if left, err := filepath.Glob(filepath.Join(dir, "sessions", "*")); err != nil || len(left) > 0 {
		t.Errorf("records are left: %v, %v", left, err)
	}
	requireListed(t, r, "a1")
	requireRestores(t, r, b)
	requireSound(t, r)
}

func TestARunThatIsKilledBeforeItLeftTheMarkHasMadeABackup(t *testing.T) {
	t.Parallel()
	dir, st := keepVersions(t)
	r := open(t, &puts{st, "/settled", func() error { return storage.ErrUnreachable }})
	b := take(t, r, "a1", 1, nil)
	name, bodies := st.records(t)
	if _, err := os.Stat(markPath(dir, "a1")); !os.IsNotExist(err) {
		t.Fatalf("there is a mark: %v", err)
	}
	r = open(t, st)
	requireListed(t, r, "a1") // the record says so
	requireRestores(t, r, b)
	collect(t, r)
	requireListed(t, r, "a1") // the mark does
	if _, err := os.Stat(filepath.Join(dir, name)); !os.IsNotExist(err) {
		t.Errorf("the record is still there: %v", err)
	}
	put(t, filepath.Join(dir, name), bodies[len(bodies)-2], longSince)
	collect(t, r)
	requireListed(t, r, "a1")
	requireRestores(t, r, b)
	requireSound(t, r)
}

// Backups from before there were marks have neither a mark nor a record.
func TestABackupWithoutAMarkCountsAndIsGivenOne(t *testing.T) {
	t.Parallel()
	dir, st := keepVersions(t)
	r := open(t, st)
	old := take(t, r, "a1", 1, nil)
	if err := os.Remove(markPath(dir, "a1")); err != nil {
		t.Fatal(err)
	}
	requireListed(t, r, "a1")
	requireRestores(t, r, old)
	requireSound(t, r)
	collect(t, r)
	if _, err := os.Stat(markPath(dir, "a1")); err != nil {
		t.Error(err)
	}
	requireListed(t, r, "a1")
	requireSound(t, r, old)
}

// A run that is stopped once its record says that the backup counts has made one; what it still has to do does not harm.
func TestARunThatIsStoppedBeforeItLeavesTheMarkHasMadeABackup(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	reached, thaw := make(chan struct{}), make(chan struct{})
	stopped := open(t, &puts{st, "/settled", func() error {
		close(reached)
		<-thaw
		return nil
	}})
	s, ctx := begin(t, stopped, writer())
	b, err := fill(ctx, stopped, s, plan{"b2", 5, nil})
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- s.Commit(ctx, &b.manifest) }()
	<-reached
	r := open(t, ahead{st})
	next := take(t, r, "c3", 9, b)
	requireListed(t, r, "b2", "c3")
	remove(t, r, "b2")
	close(thaw)
	if err := <-result; err != nil {
		t.Error(err)
	}
	requireListed(t, r, "c3")
	requireSound(t, r, next)
	for o, err := range st.List(t.Context(), "clusters/") {
		if err != nil || strings.Contains(o.Name, "/b2/") {
			t.Errorf("%s is left of what was deleted, %v", o.Name, err)
		}
	}
}

// Who spoils the mark and puts an old record back leaves a backup whose state is not known: it is said, and nothing deleted.
func TestABackupWithADamagedMarkIsDoubtfulOnlyWhenARecordIsAgainstIt(t *testing.T) {
	t.Parallel()
	dir, st := keepVersions(t)
	r := open(t, st)
	b := take(t, r, "a1", 1, nil)
	name, bodies := st.records(t)
	mark := "clusters/7312345678901234567/backups/a1/settled"
	put(t, markPath(dir, "a1"), []byte("not a mark"), 0)
	requireListed(t, r, "a1")
	requireRestores(t, r, b)
	requireNamed(t, dir, mark, "damage")

	put(t, filepath.Join(dir, name), bodies[len(bodies)-2], silent)
	doubtful := func() {
		t.Helper()
		entries, err := r.Catalog(t.Context())
		if err != nil || len(entries) != 1 {
			t.Fatalf("the catalog has %v, %v", entries, err)
		}
		_, err = r.Manifest(t.Context(), "a1")
		for _, err := range []error{entries[0].Err, err} {
			if !errors.Is(err, repo.ErrDamaged) || !strings.Contains(err.Error(), mark) || !strings.Contains(errs.Of(err).Hint, name) {
				t.Errorf("%v, hint %q", err, errs.Of(err).Hint)
			}
		}
	}
	doubtful()
	collect(t, r)
	doubtful()
	if err := errors.Join(os.Remove(filepath.Join(dir, name)), os.Remove(markPath(dir, "a1"))); err != nil { // the remedy
		t.Fatal(err)
	}
	requireListed(t, r, "a1")
	requireRestores(t, r, b)
	collect(t, r)
	requireSound(t, r)
}

func TestAMarkOfOtherContentIsNamed(t *testing.T) {
	t.Parallel()
	dir, st := keepVersions(t)
	r := open(t, st)
	take(t, r, "a1", 1, nil)
	old, err := os.ReadFile(markPath(dir, "a1"))
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, "a1")
	if _, err = os.Stat(markPath(dir, "a1")); !os.IsNotExist(err) {
		t.Errorf("the mark of what was deleted is still there: %v", err)
	}
	take(t, r, "a1", 2, nil)
	put(t, markPath(dir, "a1"), old, 0)
	requireNamed(t, dir, "backups/a1/settled", "another content")
}

func TestAManifestThatIsLostIsNamed(t *testing.T) {
	t.Parallel()
	dir, _ := furnished(t)
	manifest := filepath.Join(filepath.Dir(markPath(dir, "b2")), "manifest")
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	requireNamed(t, dir, "backups/b2/manifest", "the absence")
}

// Whoever can write may put a deleted backup's manifest back, with its mark: its data is gone, and nothing else is the worse for it.
func TestADeletedBackupThatComesBackIsFoundToLackItsData(t *testing.T) {
	t.Parallel()
	dir, st := keepVersions(t)
	r := open(t, st)
	take(t, r, "a1", 1, nil)
	b := take(t, r, "b2", 20, nil)
	folder := filepath.Dir(markPath(dir, "a1"))
	kept := t.TempDir()
	if err := os.CopyFS(kept, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	remove(t, r, "a1")
	if err := os.CopyFS(folder, os.DirFS(kept)); err != nil {
		t.Fatal(err)
	}
	requireNamed(t, dir, "packs/", "the absence")
	if _, err := restore(t.Context(), r, "a1"); err == nil {
		t.Error("it is restored")
	}
	collect(t, r)
	remove(t, r, "a1")
	requireListed(t, r, "b2")
	requireSound(t, r, b)
}
