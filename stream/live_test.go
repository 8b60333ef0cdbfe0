package stream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/stream"
)

func TestStartAndStopKeepASessionUsageAndHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	id := r.create(a, stream.Draft{}).Stream.PublicID
	if _, err := r.stop(a, id); !errors.Is(err, stream.ErrNotLive) {
		t.Errorf("stop before start = %v", err)
	}
	opened, err := r.start(a, id)
	if err != nil || opened.EndedAt != nil || opened.PublicID.Version() != 7 {
		t.Fatalf("start = %+v, %v", opened, err)
	}
	if _, err = r.start(a, id); !errors.Is(err, stream.ErrAlreadyLive) || errs.CodeOf(err) != "already_live" {
		t.Errorf("start again = %v", err)
	}
	if err = r.stats(a, id, stream.Stats{
		BitrateKbps: new(4500), FPS: new(60), Resolution: new("1920x1080"), Codec: new("h264"), BytesSent: new(int64(math.MaxInt32) * 4),
	}); err != nil {
		t.Fatal(err)
	}
	r.exec(`update stream_sessions set session_start = session_start - interval '90 seconds'`)
	closed, err := r.stop(a, id)
	if err != nil || closed.PublicID != opened.PublicID || closed.EndedAt == nil || *closed.DurationSeconds != 90 || closed.TotalBytesSent != math.MaxInt32*4 {
		t.Fatalf("stop = %+v, %v", closed, err)
	}
	s, err := r.ByPublicID(t.Context(), a, id)
	if err != nil || s.IsLive || s.EndedAt == nil || s.EndedAt.Before(*s.StartedAt) || *s.BitrateKbps != 4500 || *s.FPS != 60 || s.Resolution != "1920x1080" {
		t.Errorf("stream afterwards = %+v, %v", s, err)
	}
	if got := r.usage(a); got != "stream_start stream_end" {
		t.Errorf("usage = %s", got)
	}
	u, err := r.Usage(t.Context(), a, stream.List{})
	if err != nil || len(u.Items) != 2 || u.Items[0].BytesTransferred != math.MaxInt32*4 || u.Items[0].DurationSeconds != 90 || *u.Items[0].StreamID != id {
		t.Errorf("usage listed = %+v, %v", u, err)
	}
	if got := r.events(id); got != "stream.created stream.started stream.updated stream.stopped" {
		t.Errorf("events = %s", got)
	}
	want := fmt.Sprintf(`{"viewers": 0, "duration": 90, "stream_id": "%s", "session_id": "%s"}`, id, opened.PublicID)
	if got := r.scan(`select data::text from events where name = 'stream.stopped'`); got != want {
		t.Errorf("stream.stopped says %s, want %s", got, want)
	}
}

func TestStartTellsWhatTheEncoderSaid(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	id := r.create(a, stream.Draft{}).Stream.PublicID
	err := r.tx(func(ctx context.Context, tx *postgres.Tx) error {
		_, err := r.Start(ctx, tx, a, id, stream.Stats{BitrateKbps: new(3000), Resolution: new("1280x720")})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := r.scan(`select concat_ws(' ', data->>'bitrate', data->>'resolution', data->>'user_id' = $1, data->>'stream_id' = $2)
		from events where name = 'stream.started'`, a.PublicID.String(), id.String())
	if got != "3000 1280x720 t t" {
		t.Errorf("stream.started says %s", got)
	}
}

func TestParallelStartsOpenOneSession(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	id := r.create(a, stream.Draft{}).Stream.PublicID
	for range 3 {
		for name, run := range map[string]func(int) error{
			"start": func(int) error { _, err := r.start(a, id); return err },
		} {
			won := 0
			for _, err := range parallel(12, run) {
				if err == nil {
					won++
				} else if !errors.Is(err, stream.ErrAlreadyLive) {
					t.Error(err)
				}
			}
			if won != 1 {
				t.Errorf("%d of %s won", won, name)
			}
		}
		won := 0
		for _, err := range parallel(12, func(int) error { _, err := r.stop(a, id); return err }) {
			if err == nil {
				won++
			} else if !errors.Is(err, stream.ErrNotLive) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d stops won", won)
		}
	}
	p, err := r.Sessions(t.Context(), a, id, stream.List{})
	if err != nil || len(p.Items) != 3 {
		t.Errorf("%d sessions, %v", len(p.Items), err)
	}
}

func TestALiveStreamOfTheOldLayerCanBeStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	id := uuid.New()
	r.exec(`insert into streams (public_id, user_id, name, stream_key, is_live, started_at, viewer_count, is_public, created_at, updated_at)
		values ($1, $2, 'old', 'k', true, now() - interval '1 hour', null, null, null, null)`, id, a.ID)
	s, err := r.stop(a, id)
	if err != nil || *s.DurationSeconds != 3600 {
		t.Errorf("stop = %+v, %v", s, err)
	}
}

func TestStatsAreCheckedAndBytesNeverFall(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	id := r.create(a, stream.Draft{}).Stream.PublicID
	if err := r.stats(a, id, stream.Stats{}); !errors.Is(err, stream.ErrNotLive) {
		t.Errorf("stats of a stream that is not live = %v", err)
	}
	if _, err := r.start(a, id); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		stats stream.Stats
		field string
	}{
		{stream.Stats{BitrateKbps: new(-1)}, "bitrate_kbps"},
		{stream.Stats{BitrateKbps: new(1 << 40)}, "bitrate_kbps"},
		{stream.Stats{FPS: new(1001)}, "fps"},
		{stream.Stats{Resolution: new("1920×1080")}, "resolution"},
		{stream.Stats{Resolution: new("0x1080")}, "resolution"},
		{stream.Stats{Resolution: new("1920x1080; drop")}, "resolution"},
		{stream.Stats{Codec: new("\x00")}, "codec"},
		{stream.Stats{BytesSent: new(int64(-1))}, "bytes_sent"},
	} {
		err := r.stats(a, id, tt.stats)
		if fs := errs.FieldsOf(err); errs.KindOf(err) != errs.Invalid || len(fs) != 1 || fs[0].Field != tt.field {
			t.Errorf("%s = %v", tt.field, err)
		}
	}
	for _, tt := range []struct {
		bytes int64
		good  bool
	}{{1000, true}, {1000, true}, {999, false}, {math.MaxInt64, true}} {
		err := r.stats(a, id, stream.Stats{BytesSent: new(tt.bytes)})
		if (err == nil) != tt.good || err != nil && errs.FieldsOf(err)[0].Field != "bytes_sent" {
			t.Errorf("%d bytes = %v", tt.bytes, err)
		}
	}
	if got := r.events(id); strings.Contains(got, "updated") {
		t.Errorf("figures that did not change made events: %s", got)
	}
}

func TestSessionsAndRecordingsAreListedInPages(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a, b := r.account("ada"), r.account("bob")
	id := r.create(a, stream.Draft{}).Stream.PublicID
	add := func(by stream.Account, f stream.File) (rec stream.Recording, err error) {
		err = r.tx(func(ctx context.Context, tx *postgres.Tx) (err error) {
			rec, err = r.AddRecording(ctx, tx, by, id, f)
			return err
		})
		return rec, err
	}
	if _, err := add(a, stream.File{Path: "a.mkv", SizeBytes: 1}); !errors.Is(err, stream.ErrNoSession) {
		t.Errorf("a recording of a stream never live = %v", err)
	}
	var first stream.Session
	for i := range 5 {
		s, err := r.start(a, id)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = s
		}
		if _, err := r.stop(a, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := add(a, stream.File{Path: "a.mkv", SizeBytes: 1, SessionID: new(uuid.New())}); !errors.Is(err, stream.ErrSessionUnknown) {
		t.Errorf("a recording of an unknown session = %v", err)
	}
	rec, err := add(a, stream.File{
		Path: "2026/first.mkv", SizeBytes: 1 << 40, SessionID: &first.PublicID, DurationSeconds: new(60),
		Codec: "av1", Resolution: "640x360", FPS: new(30), BitrateKbps: new(800), ExpiresAt: new(time.Now().Add(time.Hour)),
	})
	if err != nil || rec.SessionID != first.PublicID || *rec.SizeBytes != 1<<40 || rec.Codec != "av1" || !rec.IsAvailable {
		t.Errorf("recording = %+v, %v", rec, err)
	}
	if _, err = add(a, stream.File{Path: "2026/last.mkv", SizeBytes: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err = add(a, stream.File{Path: "2026/expired.mkv", SizeBytes: 2, ExpiresAt: new(time.Now().Add(-time.Hour))}); err != nil {
		t.Fatal(err)
	}
	r.exec(`update stream_sessions set session_start = date_trunc('hour', session_start)`) // all at the same instant
	for _, limit := range []int{0, 1, 2, 4, 5} {
		n, l := 0, stream.List{Limit: limit}
		seen := map[uuid.UUID]bool{}
		for {
			p, e := r.Sessions(t.Context(), b, id, l)
			if e != nil {
				t.Fatal(e)
			}
			for _, s := range p.Items {
				seen[s.PublicID] = true
				if s.PublicID == first.PublicID && (!s.IsRecorded || s.RecordingPath != "2026/first.mkv") {
					t.Errorf("the recorded session = %+v", s)
				}
				n++
			}
			if l.Cursor = p.NextCursor; l.Cursor == "" {
				break
			}
		}
		if n != 5 || len(seen) != 5 {
			t.Errorf("pages of %d show %d sessions, %d different", limit, n, len(seen))
		}
	}
	for by, want := range map[stream.Account]string{
		a: "2026/expired.mkv 2026/last.mkv 2026/first.mkv", b: "2026/last.mkv 2026/first.mkv",
	} {
		p, e := r.Recordings(t.Context(), by, id, stream.List{})
		var got []string
		for _, rec := range p.Items {
			got = append(got, rec.Path)
		}
		if e != nil || strings.Join(got, " ") != want {
			t.Errorf("recordings seen by %d: %v, %v; want %s", by.ID, got, e, want)
		}
	}
	p, err := r.Recordings(t.Context(), a, id, stream.List{Limit: 1})
	if err != nil || p.NextCursor == "" {
		t.Fatal(p, err)
	}
	if p, err = r.Recordings(t.Context(), a, id, stream.List{Cursor: p.NextCursor}); err != nil || len(p.Items) != 2 {
		t.Errorf("the second page = %+v, %v", p, err)
	}
	for name, err := range map[string]error{
		"sessions":   second(r.Sessions(t.Context(), a, id, stream.List{Limit: 201})),
		"recordings": second(r.Recordings(t.Context(), a, id, stream.List{Cursor: "?"})),
		"usage":      second(r.Usage(t.Context(), a, stream.List{Limit: -1, Cursor: "x"})),
	} {
		if errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s = %v", name, err)
		}
	}
	if got := strings.Count(r.events(id), "recording.added"); got != 3 {
		t.Errorf("%d events of recordings", got)
	}
}

func TestPitfall36SerialIDsNeverLeave(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	for _, v := range []any{
		stream.Stream{ID: 4711, OwnerID: 4711}, stream.Session{ID: 4711}, stream.Recording{ID: 4711}, stream.Usage{StreamID: &id},
	} {
		b, err := json.Marshal(v)
		if err != nil || strings.Contains(string(b), "4711") || !strings.Contains(string(b), "id\":\"") {
			t.Errorf("%T is sent as %s, %v", v, b, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestRecordingsStayBelowTheirFolder(t *testing.T) {
	t.Parallel()
	for path, good := range map[string]bool{
		"a.mkv": true, "2026/11/a b.mkv": true, "жизнь/é.mp4": true, "a..b/c": true, "...": true,
		"": false, ".": false, "..": false, "../a": false, "a/../b": false, "a/..": false, "/a": false, "a//b": false, "./a": false, "a/": false,
		`a\b`: false, `..\a`: false, "c:a": false, "a\x00b": false, "a\nb": false, "a\xff": false, strings.Repeat("a", 513): false,
	} {
		if err := stream.CheckPath(path); (err == nil) != good {
			t.Errorf("%q = %v", path, err)
		}
	}
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	err := r.tx(func(ctx context.Context, tx *postgres.Tx) error {
		_, err := r.AddRecording(ctx, tx, a, id, stream.File{Path: "../x", DurationSeconds: new(-1), Codec: "?", Resolution: "x", FPS: new(-1), BitrateKbps: new(-1)})
		return err
	})
	if len(errs.FieldsOf(err)) != 7 {
		t.Errorf("all wrong = %v", err)
	}
}
