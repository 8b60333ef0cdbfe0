package repo_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/secret"
)

func objects(t *testing.T, st storage.Storage, prefix string) (names []string) {
	t.Helper()
	for o, err := range st.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, o.Name)
	}
	return names
}

func passphrase(text string) repo.Key {
	return repo.Key{Secret: secret.FromString(text), Kind: repo.KeyPassphrase}
}

func TestOnlyItsKeysOpenARepository(t *testing.T) {
	t.Parallel()
	st, ctx := newStorage(t), t.Context()
	if _, err := repo.Open(ctx, st, []repo.Key{fileKey("a")}, repo.Config{}); !errors.Is(err, repo.ErrNoRepository) {
		t.Errorf("before it is created: %v", err)
	}
	r := open(t, st)
	words := passphrase("  correct horse battery staple \n")
	if _, err := r.AddKey(ctx, words); err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string][]repo.Key{"the file": {fileKey("a")}, "the words": {passphrase("correct horse battery staple")}, "one of two": {fileKey("x"), words}} {
		if again, err := repo.Open(ctx, st, keys, config()); err != nil || again.ID() != r.ID() {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, key := range map[string]repo.Key{
		"another file": fileKey("b"), "other words": passphrase("correct horse battery stable"),
		"words as a file": {Secret: secret.FromString(strings.Repeat("correct horse", 5)), Kind: repo.KeyFile},
	} {
		if _, err := repo.Open(ctx, st, []repo.Key{key}, config()); !errors.Is(err, repo.ErrWrongKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, key := range []repo.Key{{Secret: secret.FromString("short"), Kind: repo.KeyFile}, passphrase("short"), {Secret: secret.FromString(strings.Repeat("x", 40)), Kind: "paper"}} {
		if _, err := repo.Open(ctx, st, []repo.Key{key}, config()); !errors.Is(err, repo.ErrKey) {
			t.Errorf("a bad key of kind %s: %v", key.Kind, err)
		}
	}
	if _, err := repo.Open(ctx, st, nil, config()); !errors.Is(err, repo.ErrKey) {
		t.Errorf("no key: %v", err)
	}
}

func TestRotatingAKeyRewritesKeysAlone(t *testing.T) {
	t.Parallel()
	st, ctx := newStorage(t), t.Context()
	r := open(t, st)
	b := take(t, r, "a1", 1, nil)
	before := map[string]bool{}
	for _, name := range objects(t, st, "") {
		before[name] = true
	}
	id, err := r.RotateKey(ctx, fileKey("new"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range objects(t, st, "") {
		if !before[name] && !strings.HasPrefix(name, "keys/") && !strings.HasPrefix(name, "leases/") {
			t.Errorf("%s is new", name)
		}
	}
	if _, err = repo.Open(ctx, st, []repo.Key{fileKey("a")}, config()); !errors.Is(err, repo.ErrWrongKey) {
		t.Errorf("the old key: %v", err)
	}
	r, err = repo.Open(ctx, st, []repo.Key{fileKey("new")}, config())
	if err != nil {
		t.Fatal(err)
	}
	requireRestores(t, r, b)
	all, err := r.ListKeys(ctx)
	if err != nil || len(all) != 1 || all[0].ID != id || !all[0].Opens {
		t.Errorf("keys %+v, %v", all, err)
	}
	if err := r.RemoveKey(ctx, id); !errors.Is(err, repo.ErrLastKey) {
		t.Errorf("removing the last: %v", err)
	}
	for _, id := range []string{"feedfeedfeedfeed", "../repo.json", ""} {
		if err := r.RemoveKey(ctx, id); !errors.Is(err, repo.ErrNoKey) {
			t.Errorf("removing %q: %v", id, err)
		}
	}
}

// stopped is a storage whose process stops right before a key goes, long enough for others to do something.
type stopped struct {
	storage.Storage
	meanwhile func()
}

func (s *stopped) Delete(ctx context.Context, name string) error {
	if do := s.meanwhile; do != nil && strings.HasPrefix(name, "keys/") {
		s.meanwhile = nil
		do()
	}
	return s.Storage.Delete(ctx, name)
}

// keyOf is the id of the key that opens what is opened with it.
func keyOf(t *testing.T, r *repo.Repo) string {
	t.Helper()
	all, err := r.ListKeys(t.Context())
	for _, k := range all {
		if k.Opens {
			return k.ID
		}
	}
	t.Fatalf("keys %+v, %v", all, err)
	return ""
}

func TestARemovalOfAKeyThatWakesLateLeavesTheLast(t *testing.T) {
	t.Parallel()
	st, ctx := newStorage(t), t.Context()
	other, err := open(t, st).AddKey(ctx, fileKey("b"))
	if err != nil {
		t.Fatal(err)
	}
	late := open(t, &stopped{st, func() {
		if err := open(t, ahead{st}).RemoveKey(ctx, other); err != nil {
			t.Error(err)
		}
	}})
	if err := late.RemoveKey(ctx, keyOf(t, late)); !errors.Is(err, repo.ErrLastKey) {
		t.Errorf("who wakes: %v", err)
	}
	open(t, st)
}

func TestOfTwoRotationsAtOnceBothKeysOpen(t *testing.T) {
	t.Parallel()
	st, ctx := newStorage(t), t.Context()
	late := open(t, before(1, st, "leases/", func() {
		if _, err := open(t, st).RotateKey(ctx, fileKey("new")); err != nil {
			t.Error(err)
		}
	}))
	if _, err := late.RotateKey(ctx, fileKey("newer")); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"new", "newer"} {
		if _, err := repo.Open(ctx, st, []repo.Key{fileKey(key)}, config()); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := repo.Open(ctx, st, []repo.Key{fileKey("a")}, config()); !errors.Is(err, repo.ErrWrongKey) {
		t.Errorf("the old one: %v", err)
	}
}

func TestANewEpochIsForNewPacksAndOldOnesStayReadable(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r, other := open(t, st), open(t, st)
	first := take(t, r, "a1", 1, nil)
	if err := r.RotateData(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := take(t, r, "b2", 2, nil)
	if p := first.manifest.Packs[0]; p[0] != 0 || p[1] != 0 {
		t.Errorf("pack %v is of the first epoch", p)
	}
	if p := second.manifest.Packs[0]; p[1] != 1 {
		t.Errorf("pack %v is of the second epoch", p)
	}
	for _, r := range []*repo.Repo{r, open(t, st), other} { // also whoever opened it before
		requireRestores(t, r, first)
		requireRestores(t, r, second)
	}
}

func TestManyCreateARepositoryAndOneIsThere(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			r, err := repo.Open(t.Context(), st, []repo.Key{fileKey("a")}, config())
			if err != nil {
				t.Errorf("create: %v", err)
				return
			}
			ids[i] = r.ID().String()
		})
	}
	wg.Wait()
	keys := len(objects(t, st, "keys/"))
	for _, id := range ids {
		if id != ids[0] || keys != 1 {
			t.Fatalf("%v, %d keys", ids, keys)
		}
	}
}

func TestARepositoryThatLostItsRootIsNotCreatedAnew(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	take(t, open(t, st), "a1", 1, nil)
	if err := st.Delete(t.Context(), "repo.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Open(t.Context(), st, []repo.Key{fileKey("a")}, config()); !errors.Is(err, repo.ErrDamaged) {
		t.Errorf("%v", err)
	}
}
