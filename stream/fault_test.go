package stream_test

import (
	"context"
	"strings"
	"testing"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/stream"
)

func TestWithoutRedisViewersAreUnavailableAndTheRestWorks(t *testing.T) {
	t.Parallel()
	server := cachetest.Server(t)
	r := newRig(t, server.Client(t, patient), often)
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	v := r.join(a, id)
	r.flush()
	server.Kill()
	check := func(r *rig) {
		t.Helper()
		for name, err := range map[string]error{
			"join":    second(r.Join(t.Context(), a, id)),
			"renew":   second(r.Renew(t.Context(), a, id, v)),
			"leave":   r.Leave(t.Context(), a, id, v),
			"viewers": second(r.Viewers(t.Context(), a, id)),
			"flush":   r.Flush(t.Context()),
		} {
			if errs.KindOf(err) != errs.Unavailable {
				t.Errorf("%s = %v", name, err)
			}
		}
		if s, err := r.ByPublicID(t.Context(), a, id); err != nil || s.ViewerCount != 1 {
			t.Errorf("the stream shows %d viewers, %v", s.ViewerCount, err)
		}
	}
	check(r)
	bare, err := stream.New(r.db, nil, often)
	if err != nil {
		t.Fatal(err)
	}
	check(&rig{bare, t, r.db})
	closed, err := r.stop(a, id)
	if err != nil || closed.PeakViewers != 1 || closed.TotalViewers != 1 {
		t.Errorf("stop = %+v, %v", closed, err)
	}
}

func TestAWipedRedisForgetsViewersButNotPeakAndTotal(t *testing.T) {
	t.Parallel()
	server := cachetest.Server(t)
	r := newRig(t, server.Client(t, patient), often)
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	for range 4 {
		r.join(a, id)
	}
	r.flush()
	server.FlushAll()
	until(t, "the count falls", func() bool { r.flush(); return r.scan(`select viewer_count::text from streams`) == "0" })
	r.join(a, id)
	if got, want := r.viewers(id), (stream.Figures{Count: 1, Peak: 4, Total: 5}); got != want {
		t.Errorf("viewers = %+v, want %+v", got, want)
	}
	server.FlushAll()
	closed, err := r.stop(a, id)
	if err != nil || closed.PeakViewers != 4 || closed.TotalViewers < 4 {
		t.Errorf("stop = %+v, %v", closed, err)
	}
}

// Redis may come back with lines that are written already, before those that are not.
func TestARolledBackRedisLosesNoVisitAndRepeatsNone(t *testing.T) {
	t.Parallel()
	server := cachetest.Server(t)
	r := newRig(t, server.Client(t, patient), often)
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	log := cache.StreamViewers(id) + ":log"
	first := r.join(a, id)
	if server.Do("COPY", log, "saved") != int64(1) {
		t.Fatal("nothing to be written")
	}
	r.flush()
	server.Do("RENAME", "saved", log)
	for range 2 {
		r.join(a, id)
	}
	if err := r.Leave(t.Context(), a, id, first); err != nil {
		t.Fatal(err)
	}
	until(t, "all is written", func() bool { r.flush(); return server.Do("EXISTS", log, cache.StreamViewers(id)+":sent") == int64(0) })
	if got := r.usage(a); !strings.HasSuffix(got, "viewer_join viewer_join viewer_join viewer_leave") || strings.Count(got, "viewer_join") != 3 {
		t.Errorf("usage = %s", got)
	}
	if n := r.scan(`select count(*)::text from events where name like 'viewer.%'`); n != "4" {
		t.Errorf("%s events", n)
	}
}

func TestANewSessionBeginsItsOwnFigures(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), often)
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	for range 3 {
		if err := r.Leave(t.Context(), a, id, r.join(a, id)); err != nil {
			t.Fatal(err)
		}
	}
	stays := r.join(a, id)
	if _, err := r.stop(a, id); err != nil {
		t.Fatal(err)
	}
	if _, err := r.start(a, id); err != nil {
		t.Fatal(err)
	}
	r.join(a, id)
	if got, want := r.viewers(id), (stream.Figures{Count: 2, Peak: 2, Total: 2}); got != want {
		t.Errorf("viewers = %+v, want %+v: who stayed is one of them", got, want)
	}
	if _, err := r.Renew(t.Context(), a, id, stays); err != nil {
		t.Error(err)
	}
}

func TestIdleStreamsAreForgotten(t *testing.T) {
	t.Parallel()
	c := redis(t)
	r := newRig(t, c, often)
	a := r.account("ada")
	gone, idle := r.live(a).Stream.PublicID, r.live(a).Stream.PublicID
	r.join(a, gone)
	r.exec(`delete from streams where public_id = $1`, gone)
	if err := r.Leave(t.Context(), a, idle, r.join(a, idle)); err != nil {
		t.Fatal(err)
	}
	until(t, "both are forgotten", func() bool {
		r.flush()
		n, err := c.Exists(t.Context(), cache.StreamsActive)
		return err == nil && n == 0
	})
	if got := r.usage(a); !strings.HasSuffix(got, "viewer_join viewer_leave") {
		t.Errorf("usage = %s", got)
	}
}

func TestRunWritesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), often)
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.join(a, id)
	until(t, "the join is written", func() bool { return strings.HasSuffix(r.usage(a), "viewer_join") })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestADeadDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), often)
	a := r.account("ada")
	c := r.live(a)
	id := c.Stream.PublicID
	r.join(a, id)
	r.db.Close()
	for name, err := range map[string]error{
		"get":        second(r.ByPublicID(t.Context(), a, id)),
		"key":        second(r.ByKey(t.Context(), c.Key)),
		"list":       second(r.Streams(t.Context(), a, stream.Filter{})),
		"sessions":   second(r.Sessions(t.Context(), a, id, stream.List{})),
		"recordings": second(r.Recordings(t.Context(), a, id, stream.List{})),
		"usage":      second(r.Usage(t.Context(), a, stream.List{})),
		"join":       second(r.Join(t.Context(), a, id)),
		"flush":      r.Flush(t.Context()),
		"start": r.tx(func(ctx context.Context, tx *postgres.Tx) error {
			_, err := r.Start(ctx, tx, a, id, stream.Stats{})
			return err
		}),
	} {
		if errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s = %v", name, err)
		}
	}
}

func TestViewersWorkOnARedisCluster(t *testing.T) {
	t.Parallel()
	set := cachetest.Cluster(t)
	r := newRig(t, set.Client(t, patient), often)
	a := r.account("ada")
	for range 3 { // of different slots
		id := r.live(a).Stream.PublicID
		v := r.join(a, id)
		if _, err := r.Renew(t.Context(), a, id, v); err != nil {
			t.Error(err)
		}
		if err := r.Leave(t.Context(), a, id, v); err != nil {
			t.Error(err)
		}
	}
	until(t, "all is written", func() bool { r.flush(); return strings.Count(r.usage(a), "viewer_leave") == 3 })
}

func FuzzParsers(f *testing.F) {
	key, _ := stream.NewKey()
	f.Add(key)
	f.Add("l 0199a0c2-7c3e-7000-8000-000000000001 7 1800000000000 1800000030000")
	f.Add("MTgwMDAwMDAwMDAwMDAwMC4x")
	f.Fuzz(func(t *testing.T, s string) {
		if hash, ok := stream.KeyHash(s); ok && hash == [32]byte{} {
			t.Error("a key without a hash")
		}
		if seconds, ok := stream.ReadVisit(s); ok && (seconds < 0 || seconds > 1<<31-1) {
			t.Errorf("%q lasted %d s", s, seconds)
		}
		if stream.CheckPath(s) == nil && (strings.HasPrefix(s, "/") || strings.Contains("/"+s+"/", "/../")) {
			t.Errorf("path %q", s)
		}
		_ = stream.ReadPlace(s)
	})
}
