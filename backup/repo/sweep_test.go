package repo_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/backup/wal"
	"rootstream/tests/harness"
)

// fate is what happens at a write: it is never done, or it was but nobody hears so, and that is the end; or it fails and life goes on.
type fate string

const (
	killedBefore fate = "killed before it was done"
	killedAfter  fate = "killed when it was done"
	failed       fate = "it failed"
)

// mortal is a storage whose process meets its fate at its nth write or deletion. Once it is killed, nothing that it says or asks is heard.
type mortal struct {
	storage.Storage
	left atomic.Int64
	fate fate
}

func (m *mortal) dead() bool { return m.met() && m.fate != failed }

func (m *mortal) met() bool { return m.left.Load() <= 0 }

func (m *mortal) write(do func() error) error {
	switch left := m.left.Add(-1); {
	case left > 0, left < 0 && m.fate == failed:
		return do()
	case left == 0 && m.fate == killedAfter:
		_ = do()
	}
	return storage.ErrUnreachable
}

func (m *mortal) Put(ctx context.Context, name string, body []byte) error {
	return m.write(func() error { return m.Storage.Put(ctx, name, body) })
}

func (m *mortal) Delete(ctx context.Context, name string) error {
	return m.write(func() error { return m.Storage.Delete(ctx, name) })
}

func (m *mortal) Swap(ctx context.Context, name string, body []byte, tag string) (next string, _ error) {
	err := m.write(func() (err error) {
		next, err = m.Storage.Swap(ctx, name, body, tag)
		return err
	})
	return next, err
}

func (m *mortal) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if m.dead() {
		return nil, storage.ErrUnreachable
	}
	return m.Storage.Get(ctx, name, off, n)
}

func (m *mortal) Stat(ctx context.Context, name string) (storage.Object, error) {
	if m.dead() {
		return storage.Object{}, storage.ErrUnreachable
	}
	return m.Storage.Stat(ctx, name)
}

func (m *mortal) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	if m.dead() {
		return func(yield func(storage.Object, error) bool) { yield(storage.Object{}, storage.ErrUnreachable) }
	}
	return m.Storage.List(ctx, prefix)
}

// kitchen is a repository on which something is killed at each of its writes in turn.
type kitchen struct {
	t    *testing.T
	dir  string
	st   storage.Storage
	kept *backup // on no account to be lost
}

func newKitchen(t *testing.T) *kitchen {
	t.Helper()
	dir := t.TempDir()
	st := storageIn(t, dir)
	return &kitchen{t: t, dir: dir, st: st}
}

// copy is the same repository in another folder.
func (k *kitchen) copy(t *testing.T) *kitchen {
	t.Helper()
	c := newKitchen(t)
	c.kept = k.kept
	if err := os.CopyFS(c.dir, os.DirFS(k.dir)); err != nil {
		t.Fatal(err)
	}
	return c
}

// furnish makes a repository of old backups, one that is kept and shares with them, log, and what an aborted run left.
func furnish(t *testing.T) *kitchen {
	t.Helper()
	k := newKitchen(t)
	r := open(t, k.st)
	store(t, r, system, 0, 3)
	keep(t, r, spanning("a0", 0, 1))
	k.kept = take(t, r, "b2", 20, take(t, r, "a1", 1, nil))
	s, ctx := begin(t, r, writer())
	if _, err := fill(ctx, r, s, plan{"c3", 40, nil}); err != nil {
		t.Fatal(err)
	}
	if err := s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	return k
}

// sweep lets do meet each fate at its first write, then at its second, and so on, until it comes to its end; then next is
// what somebody does who comes later, in a process of its own. What is kept has to be whole at any time.
func sweep(t *testing.T, do func(*kitchen, *repo.Repo) error, next func(*kitchen, *repo.Repo)) {
	t.Helper()
	stride := 2
	if soak(t) {
		stride = 1
	}
	home := furnish(t)
	for _, how := range []fate{killedBefore, killedAfter, failed} {
		n := 1 + int(harness.Seed(t)%uint64(stride))
		for ; meets(home.copy(t), how, n, do, next); n += stride {
			if t.Failed() {
				t.Fatalf("at write %d: %s", n, how)
			}
		}
	}
}

// meets reports whether it came to that.
func meets(k *kitchen, how fate, n int, do func(*kitchen, *repo.Repo) error, next func(*kitchen, *repo.Repo)) bool {
	k.t.Helper()
	m := &mortal{Storage: k.st, fate: how}
	m.left.Store(1 << 40)
	r := open(k.t, m)
	m.left.Store(int64(n))
	if err := do(k, r); err != nil && !m.met() {
		k.t.Errorf("undisturbed: %v", err)
	}
	later := k.later()
	requireRestores(k.t, later, k.kept)
	next(k, later)
	requireRestores(k.t, later, k.kept)
	requireSound(k.t, later)
	if err := os.RemoveAll(k.dir); err != nil {
		k.t.Error(err)
	}
	return m.met()
}

// later opens the repository when whoever was killed has said nothing for long.
func (k *kitchen) later() *repo.Repo {
	k.t.Helper()
	for _, name := range objects(k.t, k.st, "sessions/") {
		then := time.Now().Add(-silent)
		if err := os.Chtimes(filepath.Join(k.dir, name), then, then); err != nil {
			k.t.Fatal(err)
		}
	}
	r, err := repo.Open(k.t.Context(), k.st, []repo.Key{fileKey("a"), fileKey("new")}, config())
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

func old(all []repo.Entry) (ids []string) {
	for _, e := range all {
		if e.ID < "b2" {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

func prune(r *repo.Repo) (repo.Report, error) {
	return r.Collect(context.Background(), repo.CollectOptions{MinAge: time.Nanosecond, Choose: old})
}

// tidy prunes once, after which there is what the catalog needs, and nothing else. What goes is named, whoever chose it.
func (k *kitchen) tidy(r *repo.Repo) {
	k.t.Helper()
	before, err := r.Catalog(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	report, err := prune(r)
	if err != nil {
		k.t.Fatal(err)
	}
	needed := map[string]bool{}
	entries, err := r.Catalog(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, e := range before {
		left := slices.ContainsFunc(entries, func(o repo.Entry) bool { return o.ID == e.ID })
		if left == slices.Contains(report.Backups, e.ID) {
			k.t.Errorf("of %s, which is there: %v, it is said that %v went", e.ID, left, report.Backups)
		}
	}
	for _, e := range entries {
		m, err := r.Manifest(k.t.Context(), e.ID)
		if err != nil || e.ID < "b2" {
			k.t.Errorf("%s is left: %v", e.ID, err)
		}
		for _, p := range m.Packs {
			needed[p.Object()] = true
		}
	}
	for _, name := range objects(k.t, k.st, "") {
		id := strings.Split(name, "/")
		switch {
		case strings.HasPrefix(name, "packs/") && !needed[name],
			len(id) > 3 && id[2] == "backups" && !slices.ContainsFunc(entries, func(e repo.Entry) bool { return e.ID == id[3] }):
			k.t.Errorf("nobody needs %s", name)
		}
	}
	if got := stored(k.t, r, system); got != "1 2" || len(intents(k.t, k.st)) != 1 {
		k.t.Errorf("there is log %s, and %d intents", got, len(intents(k.t, k.st)))
	}
}

func TestAPruneThatIsKilledAtAnyWriteIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	do := func(_ *kitchen, r *repo.Repo) error {
		_, err := prune(r)
		return err
	}
	sweep(t, do, (*kitchen).tidy)
}

func TestADeletionThatIsKilledAtAnyWriteIsFinishedByTheSameAgain(t *testing.T) {
	t.Parallel()
	ids := []string{"a1", "a0"}
	do := func(_ *kitchen, r *repo.Repo) error {
		_, err := r.Delete(context.Background(), ids, false)
		return err
	}
	sweep(t, do, func(k *kitchen, r *repo.Repo) {
		if dry, err := r.Delete(k.t.Context(), ids, true); err != nil && !errors.Is(err, repo.ErrNoBackup) || err == nil && len(dry.Backups) != 2 {
			k.t.Errorf("a dry run: %+v, %v", dry, err)
		}
		if err := do(k, r); err != nil && (!errors.Is(err, repo.ErrNoBackup) || stored(k.t, r, system) != "1 2") {
			k.t.Errorf("%v; there is log %s", err, stored(k.t, r, system))
		}
		k.tidy(r)
	})
}

func TestABackupThatIsKilledAtAnyWriteIsThereOrNot(t *testing.T) {
	t.Parallel()
	var b *backup
	do := func(k *kitchen, r *repo.Repo) error {
		s, ctx, err := r.Begin(context.Background(), writer())
		if err != nil {
			return err
		}
		defer func() { _ = s.Abort(context.Background()) }()
		if b, err = fill(ctx, r, s, plan{"d4", 60, k.kept}); err != nil {
			return err
		}
		return s.Commit(ctx, &b.manifest)
	}
	sweep(t, do, func(k *kitchen, r *repo.Repo) {
		if _, err := r.Manifest(k.t.Context(), "d4"); err == nil {
			requireRestores(k.t, r, b)
		} else if !errors.Is(err, repo.ErrNoBackup) {
			k.t.Error(err)
		}
		next := take(k.t, r, "e5", 80, k.kept)
		k.tidy(r)
		requireRestores(k.t, r, next)
	})
}

func TestAKeyChangeThatIsKilledAtAnyWriteLocksNobodyOut(t *testing.T) {
	t.Parallel()
	do := func(_ *kitchen, r *repo.Repo) error {
		_, err := r.RotateKey(context.Background(), fileKey("new"))
		return errors.Join(err, r.RotateData(context.Background()))
	}
	sweep(t, do, func(k *kitchen, _ *repo.Repo) {
		st, ctx := k.st, k.t.Context()
		r, err := repo.Open(ctx, st, []repo.Key{fileKey("a")}, config())
		if err == nil {
			err = do(k, r)
		} else if !errors.Is(err, repo.ErrWrongKey) {
			k.t.Error(err)
		}
		if err != nil && !errors.Is(err, repo.ErrWrongKey) {
			k.t.Errorf("once more: %v", err)
		}
		if _, err = repo.Open(ctx, st, []repo.Key{fileKey("a")}, config()); !errors.Is(err, repo.ErrWrongKey) {
			k.t.Errorf("the old key: %v", err)
		}
		if r, err = repo.Open(ctx, st, []repo.Key{fileKey("new")}, config()); err != nil {
			k.t.Fatal(err)
		}
		requireRestores(k.t, r, k.kept)
		take(k.t, r, "e5", 80, k.kept)
	})
}

func TestLogThatIsKilledAtAnyWriteIsStoredAgain(t *testing.T) {
	t.Parallel()
	const pieces = 3
	do := func(_ *kitchen, r *repo.Repo) error {
		ctx, name, whole := context.Background(), wal.SegmentName(1, 3*segSize, segSize), []byte("some of the log")
		for i := range pieces {
			if err := r.PutPiece(ctx, system, name, int64(5*i), whole[5*i:5*i+5]); err != nil {
				return err
			}
		}
		return r.PutWAL(ctx, system, name, whole)
	}
	sweep(t, do, func(k *kitchen, r *repo.Repo) {
		if err := do(k, r); err != nil {
			k.t.Error(err)
		}
		if got := stored(k.t, r, system); got != "0 1 2 3" {
			k.t.Errorf("there is %s", got)
		}
	})
}

// intentsKept is a storage that keeps every intent, as those that one can only add to.
type intentsKept struct {
	storage.Storage
	all map[string][]byte
}

func (i *intentsKept) Put(ctx context.Context, name string, body []byte) error {
	if strings.HasPrefix(name, "intents/") {
		i.all[name] = slices.Clone(body)
	}
	return i.Storage.Put(ctx, name, body)
}

// What was decided long ago may be decided once more: what it took is gone, and it takes nothing else.
func TestOldIntentsThatComeBackTakeNothing(t *testing.T) {
	t.Parallel()
	k := furnish(t)
	i := &intentsKept{k.st, map[string][]byte{}}
	r := open(t, i)
	if _, err := prune(r); err != nil {
		t.Fatal(err)
	}
	store(t, r, system, 3, 6)
	keep(t, r, spanning("d4", 1, 2))
	next := take(t, r, "e5", 80, k.kept)
	remove(t, r, "d4")
	if len(i.all) < 3 {
		t.Fatalf("there were %d intents", len(i.all))
	}
	log := stored(t, r, system)
	for name, body := range i.all {
		if err := k.st.Put(t.Context(), name, body); err != nil && !errors.Is(err, storage.ErrExists) {
			t.Fatal(err)
		}
	}
	again := take(t, r, "f6", 100, next)
	if _, err := prune(r); err != nil {
		t.Fatal(err)
	}
	requireListed(t, r, "b2", "e5", "f6")
	requireSound(t, r, k.kept, next, again)
	if got := stored(t, r, system); got != log || len(intents(t, k.st)) != 1 {
		t.Errorf("there is log %s instead of %s, and %d intents", got, log, len(intents(t, k.st)))
	}
}
