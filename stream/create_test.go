package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/stream"
)

func TestCreateGivesAKeyOnceAndKeepsItsHash(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	c := r.create(a, stream.Draft{
		Name: "Ada & Bob 👩‍💻", Description: "two\nlines", URL: "rtmp://live.example.org/in", ThumbnailURL: "https://example.org/t.png",
		Codec: "h264", IsPublic: new(false),
	})
	s := c.Stream
	if s.PublicID.Version() != 7 || s.UserID != a.PublicID || s.IsLive || s.IsPublic || s.Codec != "h264" || s.Description != "two\nlines" || s.CreatedAt.Location() != time.UTC {
		t.Errorf("created %+v", s)
	}
	key := c.Key.Reveal()
	if !strings.HasPrefix(key, "srk_") || len(key) != 53 {
		t.Errorf("key %q", key)
	}
	row := r.scan(`select s::text from streams s where public_id = $1`, s.PublicID)
	if strings.Contains(row, key) || !strings.Contains(row, "h1:") {
		t.Errorf("the row holds %s", row)
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, key) {
		t.Errorf("a created stream prints its key: %s", text)
	}
	if got, err := r.ByKey(t.Context(), c.Key); err != nil || got.PublicID != s.PublicID {
		t.Errorf("by key = %v, %v", got.PublicID, err)
	}
	if got, err := r.ByPublicID(t.Context(), a, s.PublicID); err != nil || got != s {
		t.Errorf("by id = %+v, %v; want %+v", got, err, s)
	}
	if got := r.events(s.PublicID); got != "stream.created" {
		t.Errorf("events = %s", got)
	}
}

func TestParallelCreatesNeverExceedTheLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{MaxStreams: 3})
	a := r.account("ada")
	made := 0
	for _, err := range parallel(10, func(int) error {
		return r.db.InTx(t.Context(), func(tx *postgres.Tx) error {
			_, err := r.Create(t.Context(), tx, a, stream.Draft{Name: "s"})
			return err
		})
	}) {
		switch {
		case err == nil:
			made++
		case !errors.Is(err, stream.ErrTooManyStreams):
			t.Error(err)
		}
	}
	if got := r.scan(`select count(*)::text from streams`); made != 3 || got != "3" {
		t.Errorf("%d were made, there are %s; want 3", made, got)
	}
	r.create(r.account("bob"), stream.Draft{})
}

func TestOnlyTheKeyItselfOpensAStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	c := r.create(a, stream.Draft{})
	key := c.Key.Reveal()
	stored := r.scan(`select stream_key from streams where public_id = $1`, c.Stream.PublicID)
	for _, bad := range []string{
		"", stored, strings.TrimPrefix(stored, "h1:"), key + "x", key[:len(key)-1], "srk_", "srk_x", strings.ToLower(key), " " + key, strings.Repeat("k", 600),
		key[:10] + "A" + key[11:], "\x00", "' or ''='",
	} {
		if bad == key {
			continue
		}
		if _, err := r.ByKey(t.Context(), secret.FromString(bad)); !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("%q = %v", bad, err)
		}
	}
	// A plain key, as a writer of Phase 24.2 leaves it.
	r.exec(`insert into streams (user_id, name, stream_key) values ($1, 'old', 'live_abc123')`, a.ID)
	old, err := r.ByKey(t.Context(), secret.FromString("live_abc123"))
	if err != nil || old.Name != "old" || !old.IsPublic || old.IsLive || old.BitrateKbps != nil {
		t.Errorf("an old key = %+v, %v", old, err)
	}
}

func TestRotatedKeyIsDeadAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a, b := r.account("ada"), r.account("bob")
	c := r.create(a, stream.Draft{})
	rotate := func(by stream.Account) (key secret.Secret, err error) {
		err = r.tx(func(ctx context.Context, tx *postgres.Tx) (err error) {
			key, err = r.RotateKey(ctx, tx, by, c.Stream.PublicID)
			return err
		})
		return key, err
	}
	if _, err := rotate(b); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a stranger rotates: %v", err)
	}
	key, err := rotate(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ByKey(t.Context(), c.Key); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("the old key = %v", err)
	}
	if got, err := r.ByKey(t.Context(), key); err != nil || got.PublicID != c.Stream.PublicID {
		t.Errorf("the new key = %v", err)
	}
}

func TestForeignStreamsAreReadOnlyIfPublicAndElseNotFound(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a, b := r.account("ada"), r.account("bob")
	op := r.account("op")
	op.Operator = true
	open, hidden := r.create(a, stream.Draft{}).Stream.PublicID, r.create(a, stream.Draft{IsPublic: new(false)}).Stream.PublicID
	reads := map[string]func(stream.Account, uuid.UUID) error{
		"get": func(by stream.Account, id uuid.UUID) error { _, err := r.ByPublicID(t.Context(), by, id); return err },
		"sessions": func(by stream.Account, id uuid.UUID) error {
			_, err := r.Sessions(t.Context(), by, id, stream.List{})
			return err
		},
		"recordings": func(by stream.Account, id uuid.UUID) error {
			_, err := r.Recordings(t.Context(), by, id, stream.List{})
			return err
		},
		"viewers": func(by stream.Account, id uuid.UUID) error { _, err := r.Viewers(t.Context(), by, id); return err },
	}
	for name, read := range reads {
		for _, tt := range []struct {
			by   stream.Account
			id   uuid.UUID
			want error
		}{{a, open, nil}, {a, hidden, nil}, {b, open, nil}, {b, hidden, stream.ErrNotFound}, {op, hidden, nil}, {a, uuid.New(), stream.ErrNotFound}} {
			if err := read(tt.by, tt.id); !errors.Is(err, tt.want) {
				t.Errorf("%s by %d = %v, want %v", name, tt.by.ID, err, tt.want)
			}
		}
	}
	writes := map[string]func(context.Context, *postgres.Tx, stream.Account, uuid.UUID) error{
		"update": func(ctx context.Context, tx *postgres.Tx, by stream.Account, id uuid.UUID) error {
			_, err := r.Update(ctx, tx, by, id, stream.Patch{Name: new("new")})
			return err
		},
		"start": func(ctx context.Context, tx *postgres.Tx, by stream.Account, id uuid.UUID) error {
			_, err := r.Start(ctx, tx, by, id, stream.Stats{})
			return err
		},
		"stop": func(ctx context.Context, tx *postgres.Tx, by stream.Account, id uuid.UUID) error {
			_, err := r.Stop(ctx, tx, by, id)
			return err
		},
		"stats": func(ctx context.Context, tx *postgres.Tx, by stream.Account, id uuid.UUID) error {
			_, err := r.UpdateStats(ctx, tx, by, id, stream.Stats{})
			return err
		},
		"record": func(ctx context.Context, tx *postgres.Tx, by stream.Account, id uuid.UUID) error {
			_, err := r.AddRecording(ctx, tx, by, id, stream.File{Path: "x.mkv", SizeBytes: 1})
			return err
		},
		"delete": r.Delete,
	}
	for name, write := range writes {
		err := r.tx(func(ctx context.Context, tx *postgres.Tx) error { return write(ctx, tx, b, open) })
		if !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("a stranger's %s = %v", name, err)
		}
	}
	if err := r.tx(func(ctx context.Context, tx *postgres.Tx) error { return r.Delete(ctx, tx, op, hidden) }); err != nil {
		t.Errorf("an operator's delete = %v", err)
	}
	if n := r.scan(`select count(*)::text from events where name = 'stream.deleted' and actor_id = $1 and user_id = $2`, op.PublicID, a.PublicID); n != "1" {
		t.Errorf("%s events name the operator", n)
	}
}

func TestWrongFieldsAreNamedAndNothingIsWritten(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	for _, tt := range []struct {
		draft stream.Draft
		field string
	}{
		{stream.Draft{Name: " "}, "name"},
		{stream.Draft{Name: strings.Repeat("x", 256)}, "name"},
		{stream.Draft{Name: "a\x00b"}, "name"},
		{stream.Draft{Name: "a\xffb"}, "name"},
		{stream.Draft{Name: "a\nb"}, "name"},
		{stream.Draft{Name: "a\u202eb"}, "name"},
		{stream.Draft{Name: "a", Description: strings.Repeat("x", 4001)}, "description"},
		{stream.Draft{Name: "a", Description: "\x00"}, "description"},
		{stream.Draft{Name: "a", URL: "javascript:alert(1)"}, "stream_url"},
		{stream.Draft{Name: "a", URL: "https://"}, "stream_url"},
		{stream.Draft{Name: "a", ThumbnailURL: "https://x/" + strings.Repeat("y", 512)}, "thumbnail_url"},
		{stream.Draft{Name: "a", Codec: "h264;drop"}, "codec"},
	} {
		err := r.tx(func(ctx context.Context, tx *postgres.Tx) error { _, err := r.Create(ctx, tx, a, tt.draft); return err })
		if errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) != 1 || errs.FieldsOf(err)[0].Field != tt.field {
			t.Errorf("%+v = %v, want %s to be named", tt.draft, err, tt.field)
		}
	}
	if n := r.scan(`select count(*)::text from streams`); n != "0" {
		t.Errorf("%s streams were made", n)
	}
	s := r.create(a, stream.Draft{Name: "'; drop table streams; --", Description: strings.Repeat("ж", 4000)})
	if got, err := r.ByPublicID(t.Context(), a, s.Stream.PublicID); err != nil || got.Name != "'; drop table streams; --" {
		t.Errorf("%q, %v", got.Name, err)
	}
}

func TestUpdateNamesWhatChanged(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a := r.account("ada")
	id := r.create(a, stream.Draft{}).Stream.PublicID
	update := func(p stream.Patch) (s stream.Stream, err error) {
		err = r.tx(func(ctx context.Context, tx *postgres.Tx) (err error) {
			s, err = r.Update(ctx, tx, a, id, p)
			return err
		})
		return s, err
	}
	s, err := update(stream.Patch{
		Name: new("b stream"), Description: new("d"), URL: new("srt://x:1"), ThumbnailURL: new("http://x/y"), Codec: new("av1"), IsPublic: new(false),
	})
	if err != nil || s.Name != "b stream" || s.Description != "d" || s.URL != "srt://x:1" || s.ThumbnailURL != "http://x/y" || s.Codec != "av1" || s.IsPublic {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err = update(stream.Patch{Name: new("b stream")}); err != nil {
		t.Error(err)
	}
	want := `["name", "description", "stream_url", "thumbnail_url", "codec", "is_public"]`
	if got := r.scan(`select string_agg(data->>'fields', ' ') from events where name = 'stream.updated'`); got != want {
		t.Errorf("fields = %s, want %s", got, want)
	}
	_, err = update(stream.Patch{Name: new(""), Description: new("\x00"), URL: new("x"), ThumbnailURL: new("x"), Codec: new("?")})
	if len(errs.FieldsOf(err)) != 5 {
		t.Errorf("all wrong = %v", err)
	}
}

func TestStreamsAreListedNewestFirstInPages(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, stream.Config{})
	a, b := r.account("ada"), r.account("bob")
	var want []string
	for i := range 12 {
		owner := a
		if i%3 == 0 {
			owner = b
		}
		s := r.create(owner, stream.Draft{Name: fmt.Sprint("s", i), IsPublic: new(i%2 == 0)}).Stream
		if i%2 == 0 || owner == a {
			want = append([]string{s.Name}, want...)
		}
		if i == 4 {
			if _, err := r.start(owner, s.PublicID); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := func(by stream.Account, f stream.Filter) string {
		var names []string
		for {
			p, err := r.Streams(t.Context(), by, f)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range p.Items {
				names = append(names, s.Name)
			}
			if f.Cursor = p.NextCursor; f.Cursor == "" {
				return strings.Join(names, " ")
			}
		}
	}
	for _, limit := range []int{0, 1, 3, 10} {
		if got := all(a, stream.Filter{List: stream.List{Limit: limit}}); got != strings.Join(want, " ") {
			t.Errorf("pages of %d: %s, want %s", limit, got, strings.Join(want, " "))
		}
	}
	if got := all(b, stream.Filter{Mine: true}); got != "s9 s6 s3 s0" {
		t.Errorf("bob's own: %s", got)
	}
	if got := all(b, stream.Filter{Live: new(true)}); got != "s4" {
		t.Errorf("live: %s", got)
	}
	if got := all(stream.Account{Operator: true}, stream.Filter{Live: new(false)}); len(strings.Fields(got)) != 11 {
		t.Errorf("an operator sees: %s", got)
	}
	for _, f := range []stream.Filter{{List: stream.List{Limit: -1}}, {List: stream.List{Limit: 201}}, {List: stream.List{Cursor: "!"}}, {List: stream.List{Cursor: "AAAA"}}, {List: stream.List{Cursor: "AZqvYdAAcACAAAAAAAAAAA\n"}}} {
		if _, err := r.Streams(t.Context(), a, f); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v = %v", f, err)
		}
	}
}

func TestDeleteRefusesALiveStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, redis(t), stream.Config{})
	a := r.account("ada")
	id := r.live(a).Stream.PublicID
	remove := func() error {
		return r.tx(func(ctx context.Context, tx *postgres.Tx) error { return r.Delete(ctx, tx, a, id) })
	}
	if err := remove(); !errors.Is(err, stream.ErrLive) || errs.KindOf(err) != errs.Conflict {
		t.Errorf("delete while live = %v", err)
	}
	if _, err := r.stop(a, id); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := r.ByPublicID(t.Context(), a, id); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("afterwards = %v", err)
	}
	if got := r.usage(a); got != "stream_start stream_end" {
		t.Errorf("usage that stays = %s", got)
	}
}

func TestConfigMustNotBeNegative(t *testing.T) {
	t.Parallel()
	if _, err := stream.New(nil, nil, stream.Config{ViewerTTL: -1}); err == nil {
		t.Error("a negative lifetime was accepted")
	}
}
