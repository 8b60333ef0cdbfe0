package stream_test

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/secret"
	"rootstream/stream"
)

const brief = 300 * time.Millisecond // a viewer's life in tests that wait for its end

func (r *rig) viewers(id uuid.UUID) stream.Figures {
	r.t.Helper()
	f, err := r.Viewers(r.t.Context(), stream.Account{Operator: true}, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return stream.Figures{Count: f.Count, Peak: f.Peak, Total: f.Total}
}

func (r *rig) join(a stream.Account, id uuid.UUID) uuid.UUID {
	r.t.Helper()
	v, err := r.Join(r.t.Context(), a, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return v.ID
}

func (r *rig) flush() {
	r.t.Helper()
	if err := r.Flush(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// until waits for something that happens by itself.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// often is a config whose sweeps nobody has to wait for.
var often = stream.Config{FlushEvery: 2 * time.Millisecond}

func TestViewersJoinRenewAndLeave(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), often)
	a, b := r.account("ada"), r.account("bob")
	id := r.live(a).Stream.PublicID
	v, err := r.Join(t.Context(), b, id)
	if err != nil || v.ExpiresIn != 30 {
		t.Fatalf("join = %+v, %v", v, err)
	}
	mine := r.join(a, id)
	if got, want := r.viewers(id), (stream.Figures{Count: 2, Peak: 2, Total: 2}); got != want {
		t.Errorf("viewers = %+v, want %+v", got, want)
	}
	if _, err = r.Renew(t.Context(), b, id, v.ID); err != nil {
		t.Errorf("renew = %v", err)
	}
	for name, err := range map[string]error{
		"renew a stranger's": second(r.Renew(t.Context(), a, id, v.ID)),
		"end a stranger's":   r.Leave(t.Context(), a, id, v.ID),
		"renew an unknown":   second(r.Renew(t.Context(), a, id, uuid.New())),
		"end an unknown":     r.Leave(t.Context(), a, uuid.New(), mine),
	} {
		if !errors.Is(err, stream.ErrViewerNotFound) || errs.KindOf(err) != errs.NotFound {
			t.Errorf("%s = %v", name, err)
		}
	}
	if err = r.Leave(t.Context(), b, id, v.ID); err != nil {
		t.Fatal(err)
	}
	if err = r.Leave(t.Context(), b, id, v.ID); !errors.Is(err, stream.ErrViewerNotFound) {
		t.Errorf("leaving again = %v", err)
	}
	if got, want := r.viewers(id), (stream.Figures{Count: 1, Peak: 2, Total: 2}); got != want {
		t.Errorf("viewers = %+v, want %+v", got, want)
	}
	if s, e := r.ByPublicID(t.Context(), b, id); e != nil || s.ViewerCount != 1 {
		t.Errorf("the stream shows %d viewers, %v", s.ViewerCount, e)
	}
	r.flush()
	if got := r.scan(`select viewer_count::text from streams where public_id = $1`, id); got != "1" {
		t.Errorf("viewer_count = %s", got)
	}
	closed, err := r.stop(a, id)
	if err != nil || closed.PeakViewers != 2 || closed.TotalViewers != 2 {
		t.Errorf("stop = %+v, %v", closed, err)
	}
	if got := r.viewers(id); got != (stream.Figures{}) {
		t.Errorf("viewers of a stopped stream = %+v", got)
	}
	until(t, "leaves are written", func() bool { r.flush(); return strings.HasSuffix(r.usage(a), "viewer_leave") })
	if got := r.usage(b); got != "viewer_join viewer_leave" {
		t.Errorf("bob's usage = %s", got)
	}
	if got := r.usage(a); got != "stream_start viewer_join stream_end viewer_leave" {
		t.Errorf("ada's usage = %s", got)
	}
	if got := r.events(id); got != "stream.created stream.started viewer.joined viewer.joined viewer.left stream.stopped viewer.left" {
		t.Errorf("events = %s", got)
	}
	got := r.scan(`select concat_ws(' ', data->>'stream_id' = $1, data->>'user_id' = $2, data->>'duration', user_id::text = $2)
		from events where name = 'viewer.left' order by version limit 1`, id.String(), b.PublicID.String())
	if got != "t t 0 t" {
		t.Errorf("viewer.left says %s", got)
	}
}

func TestOnlyWhoMaySeeALiveStreamCanJoin(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), stream.Config{})
	a, b := r.account("ada"), r.account("bob")
	hidden := r.create(a, stream.Draft{IsPublic: new(false)}).Stream.PublicID
	if _, err := r.Join(t.Context(), a, hidden); !errors.Is(err, stream.ErrNotLive) {
		t.Errorf("a stream that is not live = %v", err)
	}
	if _, err := r.start(a, hidden); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Join(t.Context(), b, hidden); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a stranger joins a private stream: %v", err)
	}
	if _, err := r.Join(t.Context(), b, uuid.New()); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("an unknown stream = %v", err)
	}
	r.join(a, hidden)
}

func TestCountFallsByItselfWhenViewersVanish(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), stream.Config{ViewerTTL: brief, FlushEvery: 2 * time.Millisecond})
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	stays := r.join(a, id)
	for range 5 {
		r.join(a, id)
	}
	until(t, "vanished viewers are not counted", func() bool {
		if _, err := r.Renew(t.Context(), a, id, stays); err != nil {
			t.Fatal(err)
		}
		return r.viewers(id).Count == 1
	})
	until(t, "they are written down as left", func() bool {
		if _, err := r.Renew(t.Context(), a, id, stays); err != nil {
			t.Fatal(err)
		}
		r.flush()
		return strings.Count(r.events(id), "viewer.left") == 5
	})
	if got := r.scan(`select viewer_count::text from streams where public_id = $1`, id); got != "1" {
		t.Errorf("viewer_count = %s", got)
	}
	until(t, "the last one vanishes", func() bool { return r.viewers(id).Count == 0 })
	if _, err := r.Renew(t.Context(), a, id, stays); !errors.Is(err, stream.ErrViewerNotFound) {
		t.Errorf("renewing a vanished viewer = %v", err)
	}
	if got := r.viewers(id); got.Peak != 6 || got.Total != 6 {
		t.Errorf("figures = %+v", got)
	}
}

func TestParallelViewersAreCountedExactly(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), often)
	a, b := r.account("ada"), r.account("bob")
	id := r.live(a).Stream.PublicID
	const n = 120
	ids := make([]uuid.UUID, n)
	for _, err := range parallel(n, func(i int) error {
		v, err := r.Join(t.Context(), b, id)
		ids[i] = v.ID
		return err
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, want := r.viewers(id), (stream.Figures{Count: n, Peak: n, Total: n}); got != want {
		t.Errorf("viewers = %+v, want %+v", got, want)
	}
	// Everybody leaves twice while several instances sweep.
	left := 0
	for i, err := range parallel(2*n+8, func(i int) error {
		if i >= 2*n {
			return r.Flush(t.Context())
		}
		return r.Leave(t.Context(), b, id, ids[i%n])
	}) {
		switch {
		case err == nil && i < 2*n:
			left++
		case err != nil && !errors.Is(err, stream.ErrViewerNotFound):
			t.Error(err)
		}
	}
	if got := r.viewers(id); left != n || got.Count != 0 || got.Peak != n || got.Total != n {
		t.Errorf("%d left, %+v", left, got)
	}
	count := func() string {
		return r.scan(`select concat_ws(' ', count(*) filter (where event_type = 'viewer_join'), count(*) filter (where event_type = 'viewer_leave'),
			(select count(*) from events where name = 'viewer.joined'), (select count(*) from events where name = 'viewer.left')) from usage_logs`)
	}
	want := fmt.Sprint(n, n, n, n)
	until(t, "each join and leave is written down", func() bool { r.flush(); return count() == want })
	r.flush()
	if got := count(); got != want {
		t.Errorf("written: %s, want %s", got, want)
	}
	if got := r.scan(`select peak_viewers || ' ' || total_viewers from stream_sessions`); got != fmt.Sprint(n, " ", n) {
		t.Errorf("the session has %s", got)
	}
}

func TestAnAccountIsOnlySoManyViewersOfAStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), stream.Config{FlushEvery: often.FlushEvery, MaxViewers: 2})
	a, b := r.account("ada"), r.account("bob")
	id, other := r.live(a).Stream.PublicID, r.live(a).Stream.PublicID
	first := r.join(b, id)
	r.join(b, id)
	for range 3 {
		if _, err := r.Join(t.Context(), b, id); !errors.Is(err, stream.ErrTooManyViewers) || errs.KindOf(err) != errs.Conflict {
			t.Errorf("a third viewer of one account = %v", err)
		}
	}
	if got, want := r.viewers(id), (stream.Figures{Count: 2, Peak: 2, Total: 2}); got != want {
		t.Errorf("viewers = %+v, want %+v", got, want)
	}
	r.join(a, id)
	r.join(b, other)
	if err := r.Leave(t.Context(), b, id, first); err != nil {
		t.Fatal(err)
	}
	r.join(b, id)
	if _, err := r.Join(t.Context(), b, id); !errors.Is(err, stream.ErrTooManyViewers) {
		t.Errorf("a third one, later = %v", err)
	}
}

func TestManyViewersAreWrittenInBatches(t *testing.T) {
	t.Parallel()
	c := redis(t)
	r := newRig(t, c, often)
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	r.join(a, id)
	// 1,200 more joins, as the script notes them, and lines that are none.
	lines := []string{"garbage", "j x 1 1 2", "l " + uuid.NewString() + " 1 2", "j " + uuid.NewString() + " 5 99999999999 5", "j " + uuid.NewString() + " 5 2147483647 5"}
	for range 1200 {
		lines = append(lines, fmt.Sprintf("j %s %d %d %[2]d", uuid.NewString(), time.Now().UnixMilli(), a.ID))
	}
	if _, err := c.Do(t.Context(), cache.Cmd{Name: "RPUSH", Key: cache.StreamViewers(id) + ":log"}.With(lines...)); err != nil {
		t.Fatal(err)
	}
	until(t, "all are written", func() bool {
		r.flush()
		return r.scan(`select count(*)::text from events where name = 'viewer.joined'`) == "1201"
	})
}

// Whoever can write to Redis makes no history, neither of visits that never
// were nor of others' accounts, streams or times.
func TestPlantedVisitsAreNotWrittenDown(t *testing.T) {
	t.Parallel()
	c := redis(t)
	bare := newRig(t, nil, often)
	master, err := secret.NewMasterKeyFile(filepath.Join(t.TempDir(), "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := secret.Open(t.Context(), bare.db, master, "main")
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	sealed, err := stream.New(bare.db, c, stream.Config{FlushEvery: often.FlushEvery, Keys: keys, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Store: sealed, t: t, db: bare.db}
	a, b := r.account("ada"), r.account("bob")
	id, other := r.live(a).Stream.PublicID, r.live(a).Stream.PublicID
	r.join(b, other)
	viewer := r.join(b, id)
	reply, err := c.Do(t.Context(), cache.Cmd{Name: "LRANGE", Key: cache.StreamViewers(id) + ":log"}.With("0", "-1"))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := reply.Strings()
	if err != nil || len(lines) != 1 {
		t.Fatal(lines, err)
	}
	f := strings.Fields(lines[0]) // j viewer when account joined seal
	if len(f) != 6 {
		t.Fatal(lines)
	}
	planted := []string{
		fmt.Sprintf("j %s %s %s %s", uuid.NewString(), f[2], f[3], f[4]),                     // no seal
		fmt.Sprintf("j %s %s %s %s %s", uuid.NewString(), f[2], f[3], f[4], f[5]),            // of another viewer
		fmt.Sprintf("j %s %s %d %s %s", viewer, f[2], a.ID, f[4], f[5]),                      // of another account
		fmt.Sprintf("l %s %s %s %d %s", viewer, f[2], f[3], 5, f[5]),                         // of another time
		fmt.Sprintf("l %s %s %s %s %s", viewer, f[2], f[3], f[4], strings.ToUpper(f[5])+"x"), // with another seal
	}
	push := func(stream uuid.UUID, lines ...string) {
		if _, err := c.Do(t.Context(), cache.Cmd{Name: "RPUSH", Key: cache.StreamViewers(stream) + ":log"}.With(lines...)); err != nil {
			t.Fatal(err)
		}
	}
	push(id, planted...)
	push(other, lines...) // the right line of another stream
	push(id, fmt.Sprintf("l %s %d %s", viewer, time.Now().Add(100*time.Hour).UnixMilli(), strings.Join(f[3:], " ")))
	until(t, "all is written", func() bool {
		r.flush()
		return strings.Contains(r.events(id), "viewer.left") && strings.Contains(r.events(other), "viewer.joined")
	})
	if got := r.events(id) + " " + r.events(other); strings.Count(got, "viewer.") != 3 {
		t.Errorf("events = %s", got)
	}
	if got := r.scan(`select max(duration_seconds)::text from usage_logs where event_type = 'viewer_leave'`); got != "0" {
		t.Errorf("a visit from now to the future lasted %s s", got)
	}
	if got := logged.String(); !strings.Contains(got, "count=5") || !strings.Contains(got, "count=1") {
		t.Errorf("nobody is told: %s", got)
	}
}

func TestLinesFetchedAgainAfterACrashAreWrittenOnce(t *testing.T) {
	t.Parallel()
	c := redis(t)
	r := newRig(t, c, often)
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	for range 3 {
		r.join(a, id)
	}
	log := cache.StreamViewers(id) + ":log"
	reply, err := c.Do(t.Context(), cache.Cmd{Name: "LRANGE", Key: log}.With("0", "-1"))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := reply.Strings()
	if err != nil || len(lines) != 3 {
		t.Fatal(lines, err)
	}
	r.flush()
	// Whoever wrote them died before it could say so.
	if _, err := c.Do(t.Context(), cache.Cmd{Name: "RPUSH", Key: cache.StreamViewers(id) + ":sent"}.With(lines...)); err != nil {
		t.Fatal(err)
	}
	r.join(a, id)
	until(t, "the fourth is written", func() bool { r.flush(); return strings.Count(r.events(id), "viewer.joined") >= 4 })
	if got := strings.Count(r.events(id), "viewer.joined"); got != 4 {
		t.Errorf("%d joins are written", got)
	}
}

func TestAViewerWhoseAccountIsGoneHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), often)
	a, b := r.account("ada"), r.account("bob")
	id := r.live(a).Stream.PublicID
	r.join(b, id)
	r.join(a, id)
	r.exec(`delete from users where id = $1`, b.ID)
	r.flush()
	if got := r.usage(a); got != "stream_start viewer_join" {
		t.Errorf("usage = %s", got)
	}
}
