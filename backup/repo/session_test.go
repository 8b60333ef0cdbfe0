package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
)

func TestTheLeaseNamesItsHolderAndIsFreeWhenTheRunEnds(t *testing.T) {
	t.Parallel()
	r := open(t, newStorage(t))
	s, ctx := begin(t, r, repo.RunInfo{Kind: "backup", Lease: "writer", Host: "db-one"})
	if _, _, err := r.Begin(t.Context(), writer()); !errors.Is(err, repo.ErrLeaseHeld) || !strings.Contains(err.Error(), "db-one") {
		t.Errorf("a second writer: %v", err)
	}
	if other, octx, err := r.Begin(t.Context(), repo.RunInfo{Kind: "prune", Lease: "other"}); err != nil {
		t.Errorf("another lease: %v", err)
	} else if err := other.Abort(octx); err != nil {
		t.Error(err)
	}
	if err := s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	if ctx.Err() == nil {
		t.Error("the context of a run goes on after its end")
	}
	take(t, r, "a1", 1, nil)
}

func TestOnlyOneOfManyGetsTheLease(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	var mu sync.Mutex
	var won []*repo.Session
	var wg sync.WaitGroup
	repos := []*repo.Repo{open(t, st), open(t, st), open(t, st), open(t, st)}
	for _, r := range repos {
		wg.Go(func() {
			s, _, err := r.Begin(context.Background(), writer())
			if errors.Is(err, repo.ErrLeaseHeld) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			won = append(won, s)
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d have the lease", len(won))
	}
	for _, s := range won {
		if err := s.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A run that is stopped for longer than its time to live is taken for dead; when it goes on, it commits nothing.
func TestARunThatWasTakenForDeadCommitsNothing(t *testing.T) {
	t.Parallel()
	for calls := 1; calls <= 5; calls++ { // of its commit: packs are listed, it says so, the manifest, intents, reading back
		t.Run(fmt.Sprintf("stopped at call %d", calls), func(t *testing.T) {
			t.Parallel()
			commitFrozenAt(t, calls)
		})
	}
}

func commitFrozenAt(t *testing.T, calls int) {
	t.Helper()
	st := newStorage(t)
	f := newFreezer(st, 1<<30)
	stopped := open(t, f)
	s, ctx := begin(t, stopped, writer())
	thaw := sync.OnceFunc(func() { close(f.thaw) })
	t.Cleanup(thaw)
	late, err := fill(ctx, stopped, s, plan{"b2", 5, nil})
	if err != nil {
		t.Fatal(err)
	}
	settle(s)
	f.mu.Lock()
	f.left = calls
	f.mu.Unlock()
	result := make(chan error, 1)
	go func() { result <- s.Commit(ctx, &late.manifest) }()
	<-f.frozen
	r := open(t, ahead{st})
	next, err := tryTake(t, r, "c3", 9, nil)
	if err != nil {
		t.Fatalf("a run after it: %v", err)
	}
	thaw()
	if err = <-result; err == nil {
		t.Error("it says that it committed")
	}
	entries, err := r.Catalog(t.Context())
	if err != nil || len(entries) != 1 || entries[0].ID != "c3" {
		t.Errorf("the catalog has %v, %v", entries, err)
	}
	requireSound(t, r, next)
}

func TestALaterRunResumesWhatADeadOneStored(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	s, ctx := begin(t, r, writer())
	half, err := fill(ctx, r, s, plan{"a1", 1, nil})
	if err != nil {
		t.Fatal(err)
	}
	if err = s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	s, ctx = begin(t, r, repo.RunInfo{Kind: "logical"})
	if ix, rerr := s.Resumable(ctx); rerr != nil || ix.Len() != 0 {
		t.Errorf("a run of another kind finds %d blobs, %v", ix.Len(), rerr)
	}
	_ = s.Abort(ctx)
	s, ctx = begin(t, r, writer())
	ix, err := s.Resumable(ctx)
	if err != nil || ix.Len() == 0 {
		t.Fatalf("%d blobs, %v", ix.Len(), err)
	}
	hasher, found := r.NewHasher(), 0
	for _, data := range half.files {
		part := data[:min(32<<10, len(data))]
		b, ok := ix.Find(hasher.Sum(part))
		if !ok {
			continue // in a pack that was not on its way yet
		}
		plain, err := r.Read(ctx, b, nil)
		if err != nil || !bytes.Equal(plain, part) {
			t.Errorf("a resumed blob: %v", err)
		}
		found++
	}
	if _, ok := ix.Find(hasher.Sum([]byte("never stored"))); ok || found == 0 {
		t.Errorf("%d of %d are found", found, len(half.files))
	}
}

func TestAStorageThatFailsEndsTheRun(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, &puts{st, "packs/", func() error { return storage.ErrFull }})
	s, ctx := begin(t, r, writer())
	b, err := fill(ctx, r, s, plan{"a1", 1, nil})
	if err == nil {
		err = s.Commit(ctx, &b.manifest)
	}
	if !errors.Is(err, storage.ErrFull) {
		t.Errorf("%v; want that the storage is full", err)
	}
	_ = s.Abort(ctx)
	if entries, err := r.Catalog(t.Context()); err != nil || len(entries) != 0 {
		t.Errorf("the catalog has %v, %v", entries, err)
	}
}

func TestUploadsAreHeldToTheRate(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.Rate = 1 << 20
	r, err := repo.Open(t.Context(), newStorage(t), []repo.Key{fileKey("a")}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s, ctx := begin(t, r, writer())
	b, err := fill(ctx, r, s, plan{"a1", 1, nil})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, &b.manifest); err != nil {
		t.Fatal(err)
	}
	least := time.Duration(float64(s.Stored()-64<<10) / (1 << 20) * float64(time.Second))
	if took := time.Since(began); took < least {
		t.Errorf("%d bytes took %v, at least %v is right", s.Stored(), took, least)
	}
}

func TestABackupOfAnotherClusterIsRefusedUnlessItIsLetIn(t *testing.T) {
	t.Parallel()
	st := newStorage(t)
	r := open(t, st)
	take(t, r, "a1", 1, nil)
	other := open(t, st)
	if _, _, err := other.Begin(t.Context(), repo.RunInfo{Kind: "backup", System: 42}); !errors.Is(err, repo.ErrOtherCluster) {
		t.Errorf("a run: %v", err)
	}
	if err := other.PutWAL(t.Context(), 42, segment, []byte("x")); !errors.Is(err, repo.ErrOtherCluster) {
		t.Errorf("a segment: %v", err)
	}
	cfg := config()
	cfg.NewCluster = true
	let, err := repo.Open(t.Context(), st, []repo.Key{fileKey("a")}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := let.PutWAL(t.Context(), 42, segment, []byte("x")); err != nil {
		t.Errorf("a segment that is let in: %v", err)
	}
	if all, err := r.Systems(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("clusters %v, %v", all, err)
	}
}
