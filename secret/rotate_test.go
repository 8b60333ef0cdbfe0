package secret_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/postgres/postgrestest"
	"rootstream/secret"
)

func TestRotationUnderConcurrentUseNeverMeetsAnUnknownKey(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	m := newMaster(t)
	a, b := openRotating(t, db, m, 2*time.Second), openRotating(t, db, m, 2*time.Second)
	run(t, a)
	run(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var rounds atomic.Int64
	exchange := func(from, to *secret.Keyset) {
		for i := 0; ctx.Err() == nil; i++ {
			text := fmt.Sprint(i)
			sealed, err := from.Seal(place, []byte(text))
			if err != nil {
				t.Error(err)
				return
			}
			if plain, openErr := to.Unseal(place, sealed); openErr != nil || string(plain) != text {
				t.Errorf("Unseal = %q, %v; want %q", plain, openErr, text)
				return
			}
			mac, err := from.MAC("test", []byte(text))
			if err != nil {
				t.Error(err)
				return
			}
			if ok, err := to.Verify("test", mac[:], []byte(text)); err != nil || !ok {
				t.Errorf("Verify = %v, %v", ok, err)
				return
			}
			rounds.Add(1)
		}
	}
	wg.Go(func() { exchange(a, b) })
	wg.Go(func() { exchange(b, a) })
	before := mustSeal(t, a, place, "from before")
	for range 2 {
		if err := a.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	if rounds.Load() == 0 {
		t.Fatal("nothing was exchanged meanwhile")
	}
	s, err := b.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Keys) != 3 || s.Keys[2].State != "primary" || s.Keys[0].State != "old" || s.PromoteAt != nil {
		t.Errorf("after two rotations: %+v", s)
	}
	if !a.NeedsReseal(before) {
		t.Error("NeedsReseal is false for a value of an old key")
	}
	again, changed, err := a.Reseal(place, before)
	if err != nil || !changed || a.NeedsReseal(again) {
		t.Errorf("Reseal: changed %v, %v", changed, err)
	}
	if _, changed, err := a.Reseal(place, again); err != nil || changed {
		t.Errorf("Reseal of a fresh value: changed %v, %v", changed, err)
	}
	if plain, err := b.Unseal(place, again); err != nil || string(plain) != "from before" {
		t.Errorf("Unseal = %q, %v", plain, err)
	}
}

func TestInterruptedRotationIsFinishedByARunningProcess(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	m := newMaster(t)
	k := open(t, db, m)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := k.Rotate(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Rotate = %v", err)
	}
	s, err := k.Status(t.Context())
	if err != nil || len(s.Keys) != 2 || s.Keys[1].State != "pending" || s.PromoteAt == nil {
		t.Fatalf("while pending: %+v, %v", s, err)
	}
	old := mustSeal(t, k, place, "x")
	other := open(t, db, m)
	run(t, other)
	eventually(t, "the pending key is promoted", func() bool {
		s, err = other.Status(t.Context())
		return err == nil && s.Keys[1].State == "primary" && other.NeedsReseal(old)
	})
}

// What instances share names by must not change under a rotation, nor differ while one of them is behind.
func TestTheOldestKeyStaysThroughRotations(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	m := newMaster(t)
	a, behind := openRotating(t, db, m, time.Second), openRotating(t, db, m, time.Second)
	want, err := a.OldestMAC("test", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(a.Rotate(t.Context()), a.Rotate(t.Context()))
	}()
	for rotating := true; rotating; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			rotating = false
		default:
		}
		for _, k := range []*secret.Keyset{a, behind} {
			if got, err := k.OldestMAC("test", []byte("x")); err != nil || got != want {
				t.Fatalf("the oldest key changed: %v", err)
			}
		}
	}
	fresh := openRotating(t, db, m, time.Second)
	if got, err := fresh.OldestMAC("test", []byte("x")); err != nil || got != want {
		t.Errorf("whoever starts later has another oldest key: %v", err)
	}
	if primary, err := fresh.MAC("test", []byte("x")); err != nil || primary == want {
		t.Errorf("nothing was rotated: %v", err)
	}
	var none *secret.Keyset
	if _, err := none.OldestMAC("test"); !errors.Is(err, secret.ErrKeysetMissing) {
		t.Errorf("without keys: %v", err)
	}
}

func TestTwoRotationsAtOnceAddOneKey(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	m := newMaster(t)
	a, b := open(t, db, m), open(t, db, m)
	var wg sync.WaitGroup
	for _, k := range []*secret.Keyset{a, b} {
		wg.Go(func() {
			if err := k.Rotate(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s, err := a.Status(t.Context()); err != nil || len(s.Keys) != 2 {
		t.Errorf("keys %+v, %v; want 2", s.Keys, err)
	}
	if a.NeedsReseal(mustSeal(t, b, place, "x")) {
		t.Error("the two seal with different keys")
	}
}

func TestAProcessThatMissedARotationAsksForTheKeyAtOnce(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	m := newMaster(t)
	late, err := secret.OpenWith(t.Context(), db, m, secret.Config{Poll: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	k := open(t, db, m)
	if err := k.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	sealed := mustSeal(t, k, place, "x")
	if _, err := late.Unseal(place, sealed); !errors.Is(err, secret.ErrKeysetStale) {
		t.Fatalf("Unseal = %v", err)
	}
	run(t, late)
	eventually(t, "the new key is known", func() bool {
		_, err := late.Unseal(place, sealed)
		return err == nil
	})
}

func TestChangeOfTheMasterKeyReachesRunningProcesses(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	path := filepath.Join(t.TempDir(), "master.key")
	old, err := secret.NewMasterKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k := open(t, db, old)
	if _, err = secret.Open(t.Context(), db, old, "second"); err != nil {
		t.Fatal(err)
	}
	sealed := mustSeal(t, k, place, "x")
	next, err := secret.NewMasterKeyFile(path + ".next")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := secret.Rewrap(t.Context(), db, old, next); err != nil || n != 2 {
		t.Fatalf("Rewrap = %d, %v; want 2 keysets", n, err)
	}
	if n, err := secret.Rewrap(t.Context(), db, old, next); err != nil || n != 0 {
		t.Errorf("Rewrap once more = %d, %v; want 0", n, err)
	}
	if err := k.Reload(t.Context()); !errors.Is(err, secret.ErrWrongMasterKey) {
		t.Errorf("with the old file Reload = %v", err)
	}
	if plain, err := k.Unseal(place, sealed); err != nil || string(plain) != "x" {
		t.Errorf("a running process gives %q, %v", plain, err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
	if err := k.Rotate(t.Context()); err != nil {
		t.Errorf("with the new file Rotate = %v", err)
	}
	if _, err := secret.Open(t.Context(), db, old, "main"); !errors.Is(err, secret.ErrWrongMasterKey) {
		t.Errorf("the old master key gives %v", err)
	}
	if plain, err := open(t, db, next).Unseal(place, sealed); err != nil || string(plain) != "x" {
		t.Errorf("the new master key gives %q, %v", plain, err)
	}
	if _, err := secret.Rewrap(t.Context(), db, old, newMaster(t)); !errors.Is(err, secret.ErrWrongMasterKey) {
		t.Errorf("Rewrap from the wrong key = %v", err)
	}
}

func TestRunSurvivesALostKeysetRow(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	k := open(t, db, newMaster(t))
	run(t, k)
	var wrapped, canaryValue []byte
	if err := db.QueryRow(t.Context(), `delete from keysets returning wrapped, canary`).Scan(&wrapped, &canaryValue); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Status(t.Context()); err == nil {
		t.Error("Status sees nothing wrong")
	}
	sealed := mustSeal(t, k, place, "x")
	if _, err := db.Exec(t.Context(), `insert into keysets (name, wrapped, canary) values ('main', $1, $2)`, wrapped, canaryValue); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Unseal(place, sealed); err != nil {
		t.Error(err)
	}
	eventually(t, "the loop reads again", func() bool { return k.Reload(t.Context()) == nil })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}
