// Package storagetest proves that a storage keeps the contract of
// storage.Storage ([Run]), and starts a real S3 server for tests ([S3]).
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/backup/storage"
)

// Run tests the storages that open returns; each is empty, those with the same number are the same.
func Run(t *testing.T, open func(t *testing.T) storage.Storage) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, storage.Storage){
		"what is put is read back, whole or in part": readsBack,
		"an object is created once":                  createsOnce,
		"a swap needs the newest tag":                swaps,
		"one of many swaps wins":                     oneSwapWins,
		"lists are in the order of names":            lists,
		"what is deleted is gone":                    deletes,
		"names that lead elsewhere are refused":      refusesNames,
		"an ended context ends a call":               endsWithContext,
		"the clock is the one that dates objects":    dates,
		"it proves itself and nothing is left of it": proves,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func proves(t *testing.T, st storage.Storage) {
	t.Helper()
	if err := storage.Prove(t.Context(), st); err != nil {
		t.Error(err)
	}
	for o, err := range st.List(t.Context(), "") {
		t.Errorf("left is %s, %v", o.Name, err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func put(t *testing.T, st storage.Storage, name string, body []byte) {
	t.Helper()
	if err := st.Put(t.Context(), name, body); err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
}

func readsBack(t *testing.T, st storage.Storage) {
	t.Helper()
	ctx := t.Context()
	body := random(3 << 20)
	put(t, st, "packs/ab/one", body)
	put(t, st, "empty", nil)
	for _, part := range [][2]int64{{0, -1}, {0, 3 << 20}, {0, 1}, {100, 1 << 20}, {1 << 20, -1}, {3<<20 - 1, 1}, {3 << 20, 0}} {
		got, err := st.Get(ctx, "packs/ab/one", part[0], part[1])
		end := part[0] + part[1]
		if part[1] < 0 {
			end = int64(len(body))
		}
		if err != nil || !bytes.Equal(got, body[part[0]:end]) {
			t.Errorf("from %d, %d bytes: %d bytes, %v", part[0], part[1], len(got), err)
		}
	}
	for _, part := range [][2]int64{{0, 3<<20 + 1}, {3 << 20, 1}, {4 << 20, 10}} {
		if _, err := st.Get(ctx, "packs/ab/one", part[0], part[1]); !errors.Is(err, storage.ErrShort) {
			t.Errorf("from %d, %d bytes: %v", part[0], part[1], err)
		}
	}
	if got, err := st.Get(ctx, "packs/ab/one", 0, storage.AtMost(len(body))); err != nil || !bytes.Equal(got, body) {
		t.Errorf("as large as it may be: %d bytes, %v", len(got), err)
	}
	if _, err := st.Get(ctx, "packs/ab/one", 0, storage.AtMost(len(body)-1)); !errors.Is(err, storage.ErrLarge) {
		t.Errorf("larger than it may be: %v", err)
	}
	if got, err := st.Get(ctx, "empty", 0, -1); err != nil || len(got) != 0 {
		t.Errorf("an empty object: %v, %v", got, err)
	}
	if o, err := st.Stat(ctx, "packs/ab/one"); err != nil || o.Size != 3<<20 || o.Name != "packs/ab/one" {
		t.Errorf("stat: %+v, %v", o, err)
	}
	for _, name := range []string{"packs/ab/two", "packs/ab", "packs", "none"} {
		_, err := st.Get(ctx, name, 0, -1)
		_, serr := st.Stat(ctx, name)
		if !errors.Is(err, storage.ErrNotFound) || !errors.Is(serr, storage.ErrNotFound) {
			t.Errorf("%s is absent: %v, %v", name, err, serr)
		}
	}
}

func createsOnce(t *testing.T, st storage.Storage) {
	t.Helper()
	var won atomic.Int64
	var wg sync.WaitGroup
	bodies := make([][]byte, 8)
	for i := range bodies {
		bodies[i] = fmt.Appendf(nil, "body %d %s", i, random(4000))
		wg.Go(func() {
			err := st.Put(t.Context(), "a/b", bodies[i])
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, storage.ErrExists) {
				t.Errorf("a loser is told %v", err)
			}
		})
	}
	wg.Wait()
	got, err := st.Get(t.Context(), "a/b", 0, -1)
	if won.Load() != 1 || err != nil || !slices.ContainsFunc(bodies, func(b []byte) bool { return bytes.Equal(b, got) }) {
		t.Errorf("%d won; %.10q, %v", won.Load(), got, err)
	}
}

func swaps(t *testing.T, st storage.Storage) {
	t.Helper()
	ctx := t.Context()
	if _, err := st.Swap(ctx, "lease", []byte("0"), "abc"); !errors.Is(err, storage.ErrChanged) {
		t.Errorf("swapping what is absent: %v", err)
	}
	first, err := st.Swap(ctx, "lease", []byte("1"), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = st.Swap(ctx, "lease", []byte("2"), ""); !errors.Is(err, storage.ErrChanged) {
		t.Errorf("creating what is there: %v", err)
	}
	if o, serr := st.Stat(ctx, "lease"); serr != nil || o.Tag != first {
		t.Errorf("stat has the tag %q, swap %q, %v", o.Tag, first, serr)
	}
	second, err := st.Swap(ctx, "lease", []byte("3"), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = st.Swap(ctx, "lease", []byte("4"), first); !errors.Is(err, storage.ErrChanged) || second == first {
		t.Errorf("an old tag: %v", err)
	}
	if got, err := st.Get(ctx, "lease", 0, -1); err != nil || string(got) != "3" {
		t.Errorf("it holds %q, %v", got, err)
	}
}

func oneSwapWins(t *testing.T, st storage.Storage) {
	t.Helper()
	tag, err := st.Swap(t.Context(), "leases/x", []byte("start"), "")
	if err != nil {
		t.Fatal(err)
	}
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, err := st.Swap(t.Context(), "leases/x", fmt.Appendf(nil, "winner %d", i), tag)
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, storage.ErrChanged) {
				t.Errorf("a loser is told %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d won", won.Load())
	}
}

func list(t *testing.T, st storage.Storage, prefix string) (names []string) {
	t.Helper()
	for o, err := range st.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		names = append(names, o.Name)
	}
	return names
}

func lists(t *testing.T, st storage.Storage) {
	t.Helper()
	all := []string{"a-b", "a/b/1", "a/b/2", "a/b-c", "a/c/3", "a0", "b/0000-x", "b/0001-y", "b/0001.partial-z", "c"}
	for _, i := range rand.Perm(len(all)) {
		put(t, st, all[i], []byte(all[i]))
	}
	slices.Sort(all)
	for prefix, want := range map[string][]string{
		"": all, "a/b/": {"a/b/1", "a/b/2"}, "b/0001-": {"b/0001-y"}, "b/0001": {"b/0001-y", "b/0001.partial-z"}, "none/": nil, "c": {"c"}, "a/b/1/": nil,
	} {
		if got := list(t, st, prefix); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", prefix, got, want)
		}
	}
	for o, err := range st.List(t.Context(), "") { // who stops early is not called again
		if err != nil || o.Name != all[0] || o.Size != int64(len(all[0])) || o.Modified.IsZero() {
			t.Errorf("the first: %+v", o)
		}
		break
	}
	if got, err := st.Folders(t.Context(), "a/"); err != nil || !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("folders: %v, %v", got, err)
	}
	if got, err := st.Folders(t.Context(), "none/"); err != nil || len(got) != 0 {
		t.Errorf("folders of nothing: %v, %v", got, err)
	}
}

func deletes(t *testing.T, st storage.Storage) {
	t.Helper()
	ctx := t.Context()
	put(t, st, "x/y/1", []byte("1"))
	put(t, st, "x/y/2", []byte("2"))
	for range 2 {
		if err := st.Delete(ctx, "x/y/1"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if got := list(t, st, ""); !slices.Equal(got, []string{"x/y/2"}) {
		t.Errorf("left: %v", got)
	}
	if err := st.Delete(ctx, "x/y/2"); err != nil {
		t.Error(err)
	}
	if got, err := st.Folders(ctx, "x/"); err != nil || len(got) != 0 {
		t.Errorf("folders of what is gone: %v, %v", got, err)
	}
	put(t, st, "x/y/1", []byte("again"))
}

func refusesNames(t *testing.T, st storage.Storage) {
	t.Helper()
	for _, name := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", ".lock", "a b", "a\x00", "ä", string(bytes.Repeat([]byte("a"), 600))} {
		_, err := st.Get(t.Context(), name, 0, -1)
		if perr := st.Put(t.Context(), name, nil); !errors.Is(err, storage.ErrName) || !errors.Is(perr, storage.ErrName) {
			t.Errorf("%.20q: %v, %v", name, err, perr)
		}
	}
}

func endsWithContext(t *testing.T, st storage.Storage) {
	t.Helper()
	put(t, st, "a", []byte("a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := st.Get(ctx, "a", 0, -1)
	perr := st.Put(ctx, "b", []byte("b"))
	if !errors.Is(err, context.Canceled) || !errors.Is(perr, context.Canceled) {
		t.Errorf("get %v, put %v", err, perr)
	}
	if got := list(t, st, ""); !slices.Equal(got, []string{"a"}) {
		t.Errorf("there is %v", got)
	}
}

func dates(t *testing.T, st storage.Storage) {
	t.Helper()
	before, err := st.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put(t, st, "a", []byte("a"))
	o, err := st.Stat(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	after, err := st.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const grain = time.Second // S3 dates to the second
	if o.Modified.Before(before.Add(-grain)) || o.Modified.After(after.Add(grain)) {
		t.Errorf("written between %v and %v, dated %v", before, after, o.Modified)
	}
}
