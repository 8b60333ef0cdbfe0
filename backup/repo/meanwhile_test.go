package repo_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
)

// meanwhile is a storage on which others do something right before the nth look at objects whose names begin with prefix.
type meanwhile struct {
	storage.Storage
	prefix string
	n      atomic.Int64
	do     func()
}

func before(n int64, st storage.Storage, prefix string, do func()) *meanwhile {
	m := &meanwhile{Storage: st, prefix: prefix, do: do}
	m.n.Store(n)
	return m
}

func (m *meanwhile) look(name string) {
	if strings.HasPrefix(name, m.prefix) && m.n.Add(-1) == 0 {
		m.do()
	}
}

func (m *meanwhile) Stat(ctx context.Context, name string) (storage.Object, error) {
	m.look(name)
	return m.Storage.Stat(ctx, name)
}

func (m *meanwhile) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	m.look(name)
	return m.Storage.Get(ctx, name, off, n)
}

func (m *meanwhile) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	m.look(prefix)
	return m.Storage.List(ctx, prefix)
}

// puts is a storage on which something happens right before an object is created whose name has a part.
type puts struct {
	storage.Storage
	part string
	do   func() error
}

func (p *puts) Put(ctx context.Context, name string, body []byte) error {
	if strings.Contains(name, p.part) {
		if err := p.do(); err != nil {
			return err
		}
	}
	return p.Storage.Put(ctx, name, body)
}

func TestARunBeginsOrIsRefusedWheneverTheHolderOfItsLeaseEnds(t *testing.T) {
	t.Parallel()
	for n := int64(1); ; n++ {
		st := newStorage(t)
		holder, ctx := begin(t, open(t, st), writer())
		m := before(n, st, "sessions/", func() { _ = holder.Abort(ctx) })
		s, run, err := open(t, m).Begin(t.Context(), writer())
		if err == nil {
			err = s.Abort(run)
		}
		if err != nil && !errors.Is(err, repo.ErrLeaseHeld) {
			t.Errorf("its end before look %d: %v", n, err)
		}
		if m.n.Load() > 0 { // there were fewer looks
			return
		}
	}
}

func TestABackupThatIsDeletedWhileItIsVerifiedIsNotDamaged(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"packs/", "clusters/", "sessions/"} {
		for n := int64(1); ; n += 5 {
			st := newStorage(t)
			r := open(t, st)
			take(t, r, "a1", 1, nil)
			take(t, r, "b2", 20, nil)
			m := before(n, st, prefix, func() { remove(t, r, "a1") })
			for f, err := range open(t, m).Verify(t.Context(), repo.VerifyOptions{Parallel: 1}) {
				t.Errorf("deleted before look %d at %s: %s of %s: %v, %v", n, prefix, f.Object, f.Backup, f.Err, err)
			}
			if m.n.Load() > 0 {
				break
			}
		}
	}
}

// What is said of a backup that is deleted meanwhile is not believed to have been said, and leaves nothing behind.
func TestNothingIsSaidOfABackupThatIsDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(*repo.Repo) error{
		"pinned":  func(r *repo.Repo) error { return r.Pin(t.Context(), "a1") },
		"a proof": func(r *repo.Repo) error { return r.PutProof(t.Context(), "a1", repo.Proof{Kind: "verify", OK: true}) },
	} {
		st := newStorage(t)
		r := open(t, st)
		take(t, r, "a1", 1, nil)
		if err := say(open(t, &puts{st, "/a1/", func() error {
			remove(t, r, "a1")
			return nil
		}})); !errors.Is(err, repo.ErrNoBackup) {
			t.Errorf("%s: %v", name, err)
		}
		if left := objects(t, st, "clusters/"); len(left) > 0 {
			t.Errorf("%s: there is %v", name, left)
		}
	}
}

func TestABackupThatADeletionHasBegunOnCannotBePinned(t *testing.T) {
	t.Parallel()
	dir, st := keepVersions(t)
	r := open(t, st)
	take(t, r, "a1", 1, nil)
	manifest := filepath.Join(filepath.Dir(markPath(dir, "a1")), "manifest")
	whole, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	s, ctx := begin(t, r, writer()) // the deletion waits for it
	remove(t, r, "a1")
	put(t, manifest, whole, 0) // as if it had been stopped before
	if err := r.Pin(t.Context(), "a1"); !errors.Is(err, repo.ErrNoBackup) {
		t.Errorf("%v", err)
	}
	if err := s.Abort(ctx); err != nil {
		t.Error(err)
	}
	collect(t, r)
	if left := objects(t, st, "clusters/"); len(left) > 0 {
		t.Errorf("there is %v", left)
	}
}
