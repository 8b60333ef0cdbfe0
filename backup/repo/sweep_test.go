package repo_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/backup/wal"
)

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
	if ids := old(entries); len(ids) > 0 {
		k.t.Errorf("%v are left", ids)
	}
	k.requireNoGarbage(r)
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
	do := func(k *kitchen, r *repo.Repo) error {
		s, ctx, err := r.Begin(context.Background(), writer())
		if err != nil {
			return err
		}
		defer func() { _ = s.Abort(context.Background()) }()
		if k.made, err = fill(ctx, r, s, plan{"d4", 60, k.kept}); err != nil {
			return err
		}
		return s.Commit(ctx, &k.made.manifest)
	}
	sweep(t, do, func(k *kitchen, r *repo.Repo) {
		if _, err := r.Manifest(k.t.Context(), "d4"); err == nil {
			requireRestores(k.t, r, k.made)
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
	k := furnish(t, inFolders(t))
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
