package repo_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/tests/harness"
)

// requireSound verifies everything, and that every backup in the catalog restores.
func requireSound(t *testing.T, r *repo.Repo, backups ...*backup) {
	t.Helper()
	for f, err := range r.Verify(t.Context(), repo.VerifyOptions{Quick: len(backups) > 0}) {
		t.Errorf("verify: %s: %v, %v", f.Object, f.Err, err)
	}
	entries, err := r.Catalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, e := range entries {
		listed[e.ID] = true
	}
	for _, b := range backups {
		if listed[b.manifest.ID] {
			requireRestores(t, r, b)
		}
	}
}

func remove(t *testing.T, r *repo.Repo, ids ...string) repo.Report {
	t.Helper()
	report, err := r.Delete(t.Context(), ids, false)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestAParentIsDeletedAndItsChildRestores(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	parent := take(t, r, "a1", 1, nil)
	child := take(t, r, "b2", 100, parent)
	other := take(t, r, "c3", 200, nil)
	before := packBytes(t, st)

	foreseen, err := r.Delete(t.Context(), []string{"a1"}, true)
	if err != nil || packBytes(t, st) != before {
		t.Fatalf("a dry run: %v, %d bytes instead of %d", err, packBytes(t, st), before)
	}
	done := remove(t, r, "a1")
	if done.Objects == 0 || done.Bytes != before-packBytes(t, st) || done.Bytes != foreseen.Bytes {
		t.Errorf("%+v deleted, %+v foreseen, %d bytes gone", done, foreseen, before-packBytes(t, st))
	}
	requireSound(t, r, child, other)
	if _, err := r.Manifest(t.Context(), "a1"); !errors.Is(err, repo.ErrNoBackup) {
		t.Errorf("the deleted backup: %v", err)
	}
	remove(t, r, "b2", "c3")
	if left := packBytes(t, st); left != 0 {
		t.Errorf("%d bytes of packs are left without a backup", left)
	}
	requireSound(t, r)
}

func TestAPinnedBackupIsNotDeleted(t *testing.T) {
	t.Parallel()
	r := open(t, newStorage(t))
	b := take(t, r, "a1", 1, nil)
	for range 2 {
		if err := r.Pin(t.Context(), "a1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Delete(t.Context(), []string{"a1"}, false); !errors.Is(err, repo.ErrPinned) {
		t.Errorf("deleting a pinned backup: %v", err)
	}
	if m, err := r.Manifest(t.Context(), "a1"); err != nil || !m.Pinned {
		t.Errorf("pinned %v, %v", m.Pinned, err)
	}
	requireSound(t, r, b)
	if err := r.Unpin(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	remove(t, r, "a1")
}

// A manifest that cannot be read may be mended, from a version that the storage keeps or by a newer program.
func TestNothingIsDeletedThatADamagedBackupMayNeed(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, manifest string, whole []byte){
		"cut off": func(t *testing.T, manifest string, whole []byte) {
			t.Helper()
			put(t, manifest, whole[:len(whole)/2], silent)
		},
		"lost": func(t *testing.T, manifest string, _ []byte) {
			t.Helper()
			then := time.Now().Add(-silent)
			if err := errors.Join(os.Remove(manifest), os.Chtimes(filepath.Join(filepath.Dir(manifest), "settled"), then, then)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, st := keepVersions(t)
			r := open(t, st)
			store(t, r, system, 0, 3)
			a, b := take(t, r, "a1", 1, nil), take(t, r, "b2", 20, nil)
			manifest := filepath.Join(filepath.Dir(markPath(dir, "a1")), "manifest")
			whole, err := os.ReadFile(manifest)
			if err != nil {
				t.Fatal(err)
			}
			spoil(t, manifest, whole)
			requireNothingDeletedFor(t, r, "a1", "b2")
			put(t, manifest, whole, 0)
			requireListed(t, r, "a1", "b2")
			requireSound(t, r, a, b)
			spoil(t, manifest, whole)
			remove(t, r, "a1")
			collect(t, r)
			requireListed(t, r, "b2")
			requireSound(t, r, b)
		})
	}
}

// requireNothingDeletedFor wants a damaged backup to be listed as old as it is, and nothing to be deleted on its account.
func requireNothingDeletedFor(t *testing.T, r *repo.Repo, damaged, other string) {
	t.Helper()
	entries, err := r.Catalog(t.Context())
	if err != nil || len(entries) != 2 || !errors.Is(entries[0].Err, repo.ErrDamaged) || time.Since(entries[0].Completed).Round(time.Minute) != silent {
		t.Fatalf("the catalog has %+v, %v", entries, err)
	}
	_, garbage := r.Collect(t.Context(), repo.CollectOptions{MinAge: time.Nanosecond})
	_, backup := r.Delete(t.Context(), []string{other}, false)
	for what, err := range map[string]error{"packs and log": garbage, "another backup": backup} {
		if !errors.Is(err, repo.ErrDamaged) || !strings.Contains(err.Error(), "delete "+damaged+" itself first") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestADeletionWaitsForARunThatBeganBefore(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	take(t, r, "a1", 1, nil)
	before := packBytes(t, st)
	s, ctx := begin(t, r, writer())
	report := remove(t, r, "a1")
	if len(report.Waiting) != 1 || packBytes(t, st) != before {
		t.Errorf("waiting for %v, %d of %d bytes are left", report.Waiting, packBytes(t, st), before)
	}
	if err := s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Collect(t.Context(), repo.CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := packBytes(t, st); left != 0 {
		t.Errorf("%d bytes are left after the run has ended", left)
	}
}

func TestARunThatNeedsWhatADeletionTakesWithdraws(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	parent := take(t, r, "a1", 1, nil)
	s, ctx := begin(t, r, writer())
	child, err := fill(ctx, r, s, plan{"b2", 50, parent})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, "a1")
	if err = s.Commit(ctx, &child.manifest); !errors.Is(err, repo.ErrWithdrawn) {
		t.Errorf("the older run: %v", err)
	}
	if entries, err := r.Catalog(t.Context()); err != nil || len(entries) != 0 {
		t.Errorf("the catalog has %v, %v", entries, err)
	}
	// A run that begins now knows, and does not.
	again := take(t, r, "c3", 50, nil)
	requireSound(t, r, again)
	s, ctx = begin(t, r, writer())
	defer func() { _ = s.Abort(ctx) }()
	if s.MayReuse(parent.manifest.Packs[0]) {
		t.Error("a run may reuse what a deletion under way takes")
	}
}

func TestARunThatNeedsNothingOfADeletionCommitsBesideIt(t *testing.T) {
	t.Parallel()
	r := open(t, newStorage(t))
	take(t, r, "a1", 1, nil)
	s, ctx := begin(t, r, writer())
	b, err := fill(ctx, r, s, plan{"b2", 50, nil})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, "a1")
	if err = s.Commit(ctx, &b.manifest); err != nil {
		t.Fatal(err)
	}
	requireSound(t, r, b)
}

func TestGarbageOfDeadRunsIsCollectedAndWhatOthersWriteStays(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	kept := take(t, r, "a1", 1, nil)
	mine := packBytes(t, st)
	s, ctx := begin(t, r, writer())
	if _, err := fill(ctx, r, s, plan{"b2", 50, nil}); err != nil {
		t.Fatal(err)
	}
	if err := s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	s, ctx = begin(t, r, repo.RunInfo{Kind: "other"})
	b, err := fill(ctx, r, s, plan{"c3", 90, nil})
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Patience, "its packs", func() error {
		for _, p := range b.manifest.Packs {
			if _, missing := st.Stat(t.Context(), p.Object()); missing != nil {
				return missing
			}
		}
		return nil
	})
	all := packBytes(t, st)
	if _, err = r.Collect(t.Context(), repo.CollectOptions{}); err != nil || packBytes(t, st) != all {
		t.Errorf("young garbage: %v, %d bytes of %d", err, packBytes(t, st), all)
	}
	report, err := r.Collect(t.Context(), repo.CollectOptions{MinAge: time.Nanosecond})
	if err != nil || report.Objects > 0 || len(report.Waiting) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	if err := s.Commit(ctx, &b.manifest); err != nil {
		t.Fatal(err)
	}
	requireSound(t, r, kept, b)
	if _, err := r.Collect(t.Context(), repo.CollectOptions{MinAge: time.Nanosecond}); err != nil {
		t.Fatal(err)
	}
	requireSound(t, r, kept, b)
	if left := packBytes(t, st); left < mine || left >= all {
		t.Errorf("%d bytes are left of %d", left, all)
	}
}

// settle waits for packs that are on their way.
func settle(s *repo.Session) {
	for sent := int64(-1); sent != s.Stored(); time.Sleep(50 * time.Millisecond) {
		sent = s.Stored()
	}
}

// freezer is a storage whose process stops before its nth call, and goes on when thawed: as after
// SIGSTOP, whatever it was about to do then happens, long after everybody has taken it for dead.
type freezer struct {
	storage.Storage
	mu     sync.Mutex
	left   int
	frozen chan struct{}
	thaw   chan struct{}
}

func newFreezer(st storage.Storage, calls int) *freezer {
	return &freezer{Storage: st, left: calls, frozen: make(chan struct{}), thaw: make(chan struct{})}
}

func (f *freezer) call(ctx context.Context) context.Context {
	f.mu.Lock()
	f.left--
	now := f.left
	f.mu.Unlock()
	if now == 0 {
		close(f.frozen)
	}
	if now <= 0 {
		<-f.thaw
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (f *freezer) Put(ctx context.Context, name string, body []byte) error {
	return f.Storage.Put(f.call(ctx), name, body)
}

func (f *freezer) Swap(ctx context.Context, name string, body []byte, tag string) (string, error) {
	return f.Storage.Swap(f.call(ctx), name, body, tag)
}

func (f *freezer) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return f.Storage.Get(f.call(ctx), name, off, n)
}

func (f *freezer) Stat(ctx context.Context, name string) (storage.Object, error) {
	return f.Storage.Stat(f.call(ctx), name)
}

func (f *freezer) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return f.Storage.List(f.call(ctx), prefix)
}

func (f *freezer) Folders(ctx context.Context, prefix string) ([]string, error) {
	return f.Storage.Folders(f.call(ctx), prefix)
}

func (f *freezer) Delete(ctx context.Context, name string) error {
	return f.Storage.Delete(f.call(ctx), name)
}

func (f *freezer) Now(ctx context.Context) (time.Time, error) { return f.Storage.Now(f.call(ctx)) }

// TestADeletionThatWakesLateTakesNothingThatIsNeeded stops a deletion before one of its calls, each in turn when
// there is time. While it is stopped, others take over, finish its work, and make backups that share what they can.
func TestADeletionThatWakesLateTakesNothingThatIsNeeded(t *testing.T) {
	t.Parallel()
	stride := 8
	if soak(t) {
		stride = 1
	}
	lost := 0
	for calls := 1 + int(harness.Seed(t)%uint64(stride)); ; calls += stride {
		switch err := deleteFrozenAt(t, calls); {
		case errors.Is(err, errUndisturbed):
			if lost == 0 {
				t.Error("no deletion says that it lost its lease")
			}
			return
		case errors.Is(err, repo.ErrLeaseLost):
			lost++
		case err != nil:
			t.Errorf("frozen at %d: the deletion: %v", calls, err)
		}
	}
}

var errUndisturbed = errors.New("it ended before")

// ahead is a storage long after somebody was stopped: who has said nothing since is dead.
type ahead struct{ storage.Storage }

func (a ahead) Now(ctx context.Context) (time.Time, error) {
	now, err := a.Storage.Now(ctx)
	return now.Add(time.Hour), err
}

// deleteBeside begins to delete a1, and stops before one of its calls; what it says in the end is its result.
func deleteBeside(t *testing.T, st storage.Storage, calls int) (*freezer, chan error) {
	t.Helper()
	f := newFreezer(st, 1<<30)
	pruner := open(t, f)
	f.mu.Lock()
	f.left = calls
	f.mu.Unlock()
	result := make(chan error, 1)
	go func() {
		_, err := pruner.Delete(context.Background(), []string{"a1"}, false)
		result <- err
	}()
	return f, result
}

// deleteFrozenAt returns what the deletion says when it has gone on, or errUndisturbed.
func deleteFrozenAt(t *testing.T, calls int) (outcome error) {
	t.Helper()
	st := newStorage(t)
	r := open(t, st)
	first := take(t, r, "a1", 1, nil)
	second := take(t, r, "b2", 20, first)
	f, result := deleteBeside(t, st, calls)
	select {
	case <-f.frozen:
	case err := <-result:
		if err != nil {
			t.Errorf("undisturbed: %v", err)
		}
		outcome = errUndisturbed
	}
	r = open(t, ahead{st})
	// Others: a backup on top of the newest, then a deletion, then one more backup.
	parent := first
	if _, err := r.Manifest(t.Context(), "a1"); err != nil {
		parent = second
	}
	third, err := tryTake(t, r, "c3", 40, parent)
	if err != nil && !errors.Is(err, repo.ErrWithdrawn) && !errors.Is(err, errNotReusable) {
		t.Errorf("frozen at %d: a backup beside it: %v", calls, err)
	}
	if _, err = r.Delete(t.Context(), []string{"b2"}, false); err != nil {
		t.Errorf("frozen at %d: a deletion beside it: %v", calls, err)
	}
	fourth := take(t, r, "d4", 60, nil)
	close(f.thaw)
	if outcome == nil {
		outcome = <-result
	}
	backups := []*backup{fourth}
	if third != nil {
		backups = append(backups, third)
	}
	requireSound(t, r, backups...)
	if _, err := r.Manifest(t.Context(), "d4"); err != nil {
		t.Errorf("frozen at %d: the newest backup: %v", calls, err)
	}
	return outcome
}

var errNotReusable = errors.New("the parent is about to be deleted")

func tryTake(t *testing.T, r *repo.Repo, id string, seed uint64, parent *backup) (*backup, error) {
	t.Helper()
	s, ctx, err := r.Begin(t.Context(), writer())
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Abort(ctx) }()
	if parent != nil && slices.ContainsFunc(parent.manifest.Packs, func(p repo.PackID) bool { return !s.MayReuse(p) }) {
		return nil, errNotReusable
	}
	b, err := fill(ctx, r, s, plan{id, seed, parent})
	if err != nil {
		return nil, err
	}
	return b, s.Commit(ctx, &b.manifest)
}
