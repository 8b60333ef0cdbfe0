package near_test

import (
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"rootstream/session/near"
)

func key(n uint64) near.Key {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
	return near.Key(sum[:16])
}

// A map with room for everything answers exactly what a plain map with times would.
func TestMapAgreesWithItsModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type held struct{ value, until int64 }
		m, model := near.New[int64](256), map[near.Key]held{}
		var now int64
		keys := rapid.Uint64Range(0, 63)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				k, v, until := key(keys.Draw(t, "key")), rapid.Int64().Draw(t, "value"), now+2*rapid.Int64Range(0, 10).Draw(t, "life")
				if !m.Put(k, v, until, m.Ticket(k)) {
					t.Fatal("refused although nothing was invalidated")
				}
				model[k] = held{v, until}
			},
			"put late": func(t *rapid.T) {
				k := key(keys.Draw(t, "key"))
				ticket := m.Ticket(k)
				m.Invalidate(k)
				delete(model, k)
				if m.Put(k, 1, now+10, ticket) {
					t.Fatal("a put with an old ticket was accepted")
				}
			},
			"update": func(t *rapid.T) {
				k := key(keys.Draw(t, "key"))
				m.Update(k, func(v *int64) { *v++ })
				if h, ok := model[k]; ok {
					model[k] = held{h.value + 1, h.until}
				}
			},
			"invalidate": func(t *rapid.T) {
				k := key(keys.Draw(t, "key"))
				m.Invalidate(k)
				delete(model, k)
			},
			"flush": func(*rapid.T) {
				m.Flush()
				clear(model)
			},
			"wait": func(t *rapid.T) { now += 2 * rapid.Int64Range(0, 5).Draw(t, "wait") },
			"": func(t *rapid.T) {
				for n := range uint64(64) {
					got, ok := m.Get(key(n), now)
					want, there := model[key(n)]
					there = there && want.until > now
					if ok != there || (ok && got != want.value) {
						t.Fatalf("key %d: got %d %t, want %d %t", n, got, ok, want.value, there)
					}
				}
			},
		})
	})
}

func TestMapNeverExceedsItsCapacity(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.IntRange(1, 500).Draw(t, "capacity")
		m := near.New[uint64](capacity)
		for n := range uint64(2000) {
			k := key(n)
			m.Put(k, n, 2, m.Ticket(k))
			if v, ok := m.Get(k, 0); !ok || v != n {
				t.Fatalf("what was just put is gone: %d %t", v, ok)
			}
			if n%7 == 0 {
				m.Invalidate(k)
			}
		}
		if s := m.Stats(); s.Entries > s.Capacity || s.Capacity > max(8, capacity) {
			t.Fatalf("%d entries, capacity %d of %d", s.Entries, s.Capacity, capacity)
		}
	})
}

// Keys may lie in two groups, so hardly any is put out while there is room elsewhere, however often the map grew.
func TestRoomIsUsed(t *testing.T) {
	t.Parallel()
	const capacity = 1 << 18
	m := near.New[uint64](capacity)
	for n := range uint64(capacity) {
		k := key(n)
		m.Put(k, n, 2, m.Ticket(k))
		if n == capacity*3/4 {
			if s := m.Stats(); s.Evicted > capacity/1000 {
				t.Errorf("%d were put out for %d of %d", s.Evicted, n, capacity)
			}
		}
	}
	kept := 0
	for n := range uint64(capacity) {
		v, ok := m.Get(key(n), 0)
		if ok && v != n {
			t.Fatalf("key %d holds %d", n, v)
		}
		if ok {
			kept++
		}
	}
	if s := m.Stats(); kept != s.Entries || kept < capacity*9/10 {
		t.Errorf("%d of %d are found, %d are counted", kept, capacity, s.Entries)
	}
}

func TestUsedEntriesOutliveUnusedOnes(t *testing.T) {
	t.Parallel()
	m := near.New[int](64)
	hot := key(0)
	m.Put(hot, 1, 2, m.Ticket(hot))
	for n := uint64(1); n < 10_000; n++ {
		if _, ok := m.Get(hot, 0); !ok {
			t.Fatalf("an entry used all the time was evicted after %d others", n)
		}
		k := key(n)
		m.Put(k, 1, 2, m.Ticket(k))
	}
}

func TestParallelUseIsSafe(t *testing.T) {
	t.Parallel()
	m := near.New[uint64](1000)
	var wg sync.WaitGroup
	for w := range uint64(8) {
		wg.Go(func() {
			for n := range uint64(20_000) {
				id := (n*7 + w) % 3000
				k := key(id)
				switch n % 5 {
				case 0:
					m.Put(k, id, 2, m.Ticket(k))
				case 1:
					m.Invalidate(k)
				case 2:
					m.Update(k, func(v *uint64) { *v += 0 })
				default:
					if v, ok := m.Get(k, 0); ok && v != id {
						t.Errorf("key %d holds %d", id, v)
					}
				}
				if n%5000 == 4999 {
					m.Flush()
				}
			}
		})
	}
	wg.Wait()
}

func TestAHitAllocatesNothing(t *testing.T) {
	m := near.New[[128]byte](1000)
	k := key(1)
	m.Put(k, [128]byte{1}, 2, m.Ticket(k))
	if n := testing.AllocsPerRun(100, func() { m.Get(k, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGetOfAMillion(b *testing.B) {
	const n = 1 << 20
	var before, after runtime.MemStats
	keys := make([]near.Key, n)
	for i := range keys {
		keys[i] = key(uint64(i))
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := near.New[[128]byte](n)
	for _, k := range keys {
		m.Put(k, [128]byte{}, 2, m.Ticket(k))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		m.Get(keys[i*7919&(n-1)], 0)
		i++
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
	b.ReportMetric(float64(m.Stats().Entries), "entries")
}
