package repo_test

import (
	"context"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/backup/storage/file"
	"rootstream/backup/storage/s3"
	"rootstream/backup/storage/storagetest"
	"rootstream/secret"
	"rootstream/tests/harness"
)

// fate is what happens at a write: it is not done, or it is, and the process is killed or hears that it failed, or its
// answer is lost and life goes on; or it is on its way when the process is killed, and is done when others have gone on.
type fate string

const (
	killedBefore fate = "killed before it was done"
	killedAfter  fate = "killed when it was done"
	failed       fate = "it failed"
	unanswered   fate = "it was done, and the answer was lost"
	late         fate = "killed while it was on its way"
)

// mortal is a storage whose process meets its fate at its nth write or deletion. Once it is killed, nothing that it says or asks is heard.
type mortal struct {
	storage.Storage
	left  atomic.Int64
	fate  fate
	what  string       // the write that met it
	onWay func() error // what is late
}

func (m *mortal) dead() bool { return m.met() && m.fate != failed && m.fate != unanswered }

func (m *mortal) met() bool { return m.left.Load() <= 0 }

func (m *mortal) write(what string, do func() error) error {
	left := m.left.Add(-1)
	if left == 0 {
		m.what = what
	}
	switch {
	case left > 0, left < 0 && !m.dead():
		return do()
	case left == 0 && (m.fate == killedAfter || m.fate == unanswered):
		_ = do()
	case left == 0 && m.fate == late:
		m.onWay = do
	}
	return storage.ErrUnreachable
}

func (m *mortal) Put(ctx context.Context, name string, body []byte) error {
	ctx, body = context.WithoutCancel(ctx), slices.Clone(body)
	return m.write("put "+name, func() error { return m.Storage.Put(ctx, name, body) })
}

func (m *mortal) Delete(ctx context.Context, name string) error {
	ctx = context.WithoutCancel(ctx)
	return m.write("delete "+name, func() error { return m.Storage.Delete(ctx, name) })
}

func (m *mortal) Swap(ctx context.Context, name string, body []byte, tag string) (next string, _ error) {
	ctx, body = context.WithoutCancel(ctx), slices.Clone(body)
	err := m.write("swap "+name, func() (err error) {
		next, err = m.Storage.Swap(ctx, name, body, tag)
		return err
	})
	if err != nil {
		next = ""
	}
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

// place makes storages that are empty, and says in which folder their objects are.
type place func() (storage.Storage, string)

// places are where to sweep, and every how many writes.
func places() map[string]struct {
	open   func(*testing.T) place
	stride int
} {
	return map[string]struct {
		open   func(*testing.T) place
		stride int
	}{"folders": {inFolders, 4}, "a bucket": {inBucket, 15}}
}

func inFolders(t *testing.T) place {
	t.Helper()
	return func() (storage.Storage, string) {
		dir := t.TempDir()
		return storageIn(t, dir), dir
	}
}

func inBucket(t *testing.T) place {
	t.Helper()
	address, folder := storagetest.S3(t)
	n := 0
	return func() (storage.Storage, string) {
		n++
		prefix := strconv.Itoa(n)
		st, err := s3.Open(s3.Config{
			Bucket: storagetest.Bucket, Prefix: prefix, Endpoint: "http://" + address, PathStyle: true,
			AccessKey: storagetest.AccessKey, SecretKey: secret.FromString(storagetest.SecretKey),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = st.Close() })
		return st, filepath.Join(folder, prefix)
	}
}

// kitchen is a repository on which something is killed at each of its writes in turn.
type kitchen struct {
	t    *testing.T
	at   place
	dir  string
	st   storage.Storage
	kept *backup // on no account to be lost
	made *backup // by what is swept, if it makes one
}

func newKitchen(t *testing.T, at place) *kitchen {
	t.Helper()
	st, dir := at()
	return &kitchen{t: t, at: at, dir: dir, st: st}
}

// copy is the same repository in another place.
func (k *kitchen) copy() *kitchen {
	k.t.Helper()
	c := newKitchen(k.t, k.at)
	c.kept = k.kept
	if _, is := k.st.(*file.Storage); is {
		if err := os.CopyFS(c.dir, os.DirFS(k.dir)); err != nil {
			k.t.Fatal(err)
		}
		return c
	}
	for _, name := range objects(k.t, k.st, "") {
		body, err := k.st.Get(k.t.Context(), name, 0, -1)
		if err == nil {
			err = c.st.Put(k.t.Context(), name, body)
		}
		if err != nil {
			k.t.Fatal(err)
		}
	}
	return c
}

// furnish makes a repository of old backups, one that is kept and shares with them, log, and what an aborted run left.
func furnish(t *testing.T, at place) *kitchen {
	t.Helper()
	k := newKitchen(t, at)
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
	for name, where := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home, stride := furnish(t, where.open(t)), where.stride
			if soak(t) {
				stride = 1
			}
			for _, how := range []fate{killedBefore, killedAfter, failed, unanswered, late} {
				n := 1 + int(harness.Seed(t)%uint64(stride))
				for ; meets(home.copy(), how, n, do, next); n += stride {
					if t.Failed() {
						t.Fatalf("at write %d: %s", n, how)
					}
				}
			}
		})
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
	if m.onWay != nil {
		_ = m.onWay()
		k.bear()
	}
	if err := os.RemoveAll(k.dir); err != nil {
		k.t.Error(err)
	}
	if k.t.Failed() {
		k.t.Log(m.what)
	}
	return m.met()
}

// bear finds nothing lost by what came late, and nothing in the way of those who go on.
func (k *kitchen) bear() {
	k.t.Helper()
	r := k.later()
	requireSound(k.t, r)
	next := take(k.t, r, "f6", 120, k.kept)
	if _, err := prune(r); err != nil {
		k.t.Error(err)
	}
	requireRestores(k.t, r, k.kept)
	requireRestores(k.t, r, next)
	requireSound(k.t, r)
	k.requireNoGarbage(r)
}

// requireNoGarbage finds nothing of backups that the catalog does not have, and no pack that none of them needs.
func (k *kitchen) requireNoGarbage(r *repo.Repo) {
	k.t.Helper()
	entries, err := r.Catalog(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	needed := map[string]bool{}
	for _, e := range entries {
		m, err := r.Manifest(k.t.Context(), e.ID)
		if err != nil {
			k.t.Error(err)
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
}

// later opens the repository when whoever was killed has said nothing for long, nor written packs.
func (k *kitchen) later() *repo.Repo {
	k.t.Helper()
	for _, name := range slices.Concat(objects(k.t, k.st, "sessions/"), objects(k.t, k.st, "packs/")) {
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
