package repo_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
)

// careless is a storage that overwrites what it was asked to create once, as services do that know no conditions.
type careless struct{ storage.Storage }

func (c careless) Put(ctx context.Context, name string, body []byte) error {
	return errors.Join(c.Delete(ctx, name), c.Storage.Put(ctx, name, body))
}

func TestAStorageThatOverwritesIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	if _, err := repo.Open(t.Context(), careless{st}, []repo.Key{fileKey("a")}, config()); !errors.Is(err, storage.ErrUnfit) {
		t.Errorf("a repository is made: %v", err)
	}
	for o, err := range st.List(t.Context(), "") {
		t.Errorf("left is %s, %v", o.Name, err)
	}
	b := take(t, open(t, st), "a1", 1, nil)
	r := open(t, careless{st}) // the service has been replaced
	if _, _, err := r.Begin(t.Context(), writer()); !errors.Is(err, storage.ErrUnfit) {
		t.Errorf("a run begins: %v", err)
	}
	requireRestores(t, r, b)
}

func TestWhatIsLeftOfTryingTheStorageIsNoDamageAndIsCollected(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	st := storageIn(t, dir)
	r := open(t, st)
	b := take(t, r, "a1", 1, nil)
	if err := st.Put(t.Context(), storage.Probes+"of-one-who-was-killed", []byte("first")); err != nil {
		t.Fatal(err)
	}
	requireSound(t, r, b)
	age(t, dir, "probes", 48*time.Hour)
	if _, err := r.Collect(t.Context(), repo.CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	for o, err := range st.List(t.Context(), "") {
		if err != nil || strings.HasPrefix(o.Name, storage.Probes) {
			t.Errorf("left is %s, %v", o.Name, err)
		}
	}
}
