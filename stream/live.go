package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
)

// Session is one time a stream was live.
type Session struct {
	ID              int64      `json:"-"`
	PublicID        uuid.UUID  `json:"id"`
	StartedAt       time.Time  `json:"session_start"`
	EndedAt         *time.Time `json:"session_end"`
	TotalViewers    int        `json:"total_viewers"` // joins
	PeakViewers     int        `json:"peak_viewers"`  // most at once
	TotalBytesSent  int64      `json:"total_bytes_sent"`
	DurationSeconds *int       `json:"duration_seconds"`
	IsRecorded      bool       `json:"is_recorded"`
	RecordingPath   string     `json:"recording_path"`
}

const sessionColumns = `id, public_id, session_start as started_at, session_end as ended_at,
	coalesce(total_viewers, 0) as total_viewers, coalesce(peak_viewers, 0) as peak_viewers,
	coalesce(total_bytes_sent, 0) as total_bytes_sent, duration_seconds, coalesce(is_recorded, false) as is_recorded,
	coalesce(recording_path, '') as recording_path`

func (s Session) inUTC() Session {
	s.StartedAt, s.EndedAt = s.StartedAt.UTC(), inUTC(s.EndedAt)
	return s
}

// Stats is what the encoder tells; nil leaves a figure as it is.
type Stats struct {
	BitrateKbps *int    `json:"bitrate_kbps"`
	FPS         *int    `json:"fps"`
	Resolution  *string `json:"resolution"` // WIDTHxHEIGHT
	Codec       *string `json:"codec"`
	BytesSent   *int64  `json:"bytes_sent"` // since the start; it never falls
}

func (t Stats) check() error {
	var f errs.Fields
	checkBitrate(&f, t.BitrateKbps)
	checkFPS(&f, t.FPS)
	if t.Resolution != nil {
		checkResolution(&f, *t.Resolution)
	}
	if t.Codec != nil {
		checkCodec(&f, *t.Codec)
	}
	if t.BytesSent != nil && *t.BytesSent < 0 {
		f.Add("bytes_sent", "must not be negative")
	}
	return f.Err()
}

// apply returns s as t tells it and the names of the fields that differ.
func (t Stats) apply(s Stream) (Stream, []string) {
	var changed []string
	number := func(field string, at **int, to *int) {
		if to != nil && (*at == nil || **at != *to) {
			*at = to
			changed = append(changed, field)
		}
	}
	text := func(field string, at, to *string) {
		if to != nil && *at != *to {
			*at = *to
			changed = append(changed, field)
		}
	}
	number("bitrate_kbps", &s.BitrateKbps, t.BitrateKbps)
	number("fps", &s.FPS, t.FPS)
	text("resolution", &s.Resolution, t.Resolution)
	text("codec", &s.Codec, t.Codec)
	return s, changed
}

// Start makes a stream live and opens a session. first is what the encoder
// tells at the start; its zero value is fine.
func (s *Store) Start(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID, first Stats) (Session, error) {
	if err := first.check(); err != nil {
		return Session{}, err
	}
	was, err := lock(ctx, tx, a, id)
	if err != nil {
		return Session{}, err
	}
	if was.IsLive {
		return Session{}, ErrAlreadyLive
	}
	is, _ := first.apply(was)
	name, err := uuid.NewV7()
	if err != nil {
		return Session{}, fmt.Errorf("name a stream session: %w", err)
	}
	var opened Session
	b := &pgx.Batch{}
	b.Queue(`update streams set is_live = true, started_at = clock_timestamp(), ended_at = null, viewer_count = 0,
		bitrate_kbps = $2, fps = $3, resolution = nullif($4, ''), codec = nullif($5, '') where id = $1`,
		is.ID, is.BitrateKbps, is.FPS, is.Resolution, is.Codec)
	b.Queue(`insert into usage_logs (user_id, stream_id, event_type) values ($1, $2, 'stream_start')`, is.OwnerID, is.ID)
	b.Queue(`insert into stream_sessions (public_id, stream_id, session_start, total_bytes_sent) values ($1, $2, clock_timestamp(), $3)
		returning `+sessionColumns, name, is.ID, first.bytes()).Query(func(rows pgx.Rows) (err error) {
		opened, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Session])
		return err
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return Session{}, fmt.Errorf("start a stream: %w", err)
	}
	return opened.inUTC(), is.tell(tx, a, "stream.started", map[string]any{
		"stream_id": id, "user_id": is.UserID, "session_id": name, "bitrate": is.BitrateKbps, "resolution": is.Resolution,
	})
}

func (t Stats) bytes() int64 {
	if t.BytesSent == nil {
		return 0
	}
	return *t.BytesSent
}

// Stop ends a stream's session and says how it went.
func (s *Store) Stop(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID) (Session, error) {
	last, seen := s.figures(ctx, id) // before the row is locked: Redis may be slow
	is, err := lock(ctx, tx, a, id)
	if err != nil {
		return Session{}, err
	}
	if !is.IsLive {
		return Session{}, ErrNotLive
	}
	open, err := openSession(ctx, tx, is)
	if err != nil {
		return Session{}, err
	}
	if seen != nil || last.session != open.PublicID {
		last = Figures{} // what was written before stands
	}
	var closed Session
	b := &pgx.Batch{}
	b.Queue(`update streams set is_live = false, ended_at = clock_timestamp(), viewer_count = 0 where id = $1`, is.ID)
	b.Queue(`update stream_sessions set session_end = past.at, duration_seconds = least(extract(epoch from past.at - session_start), 2147483647)::int,
			peak_viewers = greatest(peak_viewers, $2), total_viewers = greatest(total_viewers, $3)
		from (select greatest(clock_timestamp(), $4::timestamptz + interval '1 microsecond') as at) past
		where id = $1 returning `+sessionColumns, open.ID, last.Peak, last.Total, open.StartedAt).Query(func(rows pgx.Rows) (err error) {
		closed, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Session])
		return err
	})
	b.Queue(`insert into usage_logs (user_id, stream_id, event_type, bytes_transferred, duration_seconds)
		select $1, $2, 'stream_end', coalesce(total_bytes_sent, 0), duration_seconds from stream_sessions where id = $3`, is.OwnerID, is.ID, open.ID)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return Session{}, fmt.Errorf("stop a stream: %w", err)
	}
	return closed.inUTC(), is.tell(tx, a, "stream.stopped", map[string]any{
		"stream_id": id, "session_id": closed.PublicID, "duration": closed.DurationSeconds, "viewers": closed.TotalViewers,
	})
}

// openSession is the session a live stream is in. One of Phase 24.2 may be live without: it gets one.
func openSession(ctx context.Context, tx *postgres.Tx, s Stream) (Session, error) {
	rows, _ := tx.Query(ctx, `select `+sessionColumns+` from stream_sessions
		where stream_id = $1 and session_end is null order by id desc limit 1`, s.ID)
	open, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Session])
	if errors.Is(err, postgres.ErrNoRows) {
		rows, _ = tx.Query(ctx, `insert into stream_sessions (stream_id, session_start)
			values ($1, coalesce($2, clock_timestamp())) returning `+sessionColumns, s.ID, s.StartedAt)
		open, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Session])
	}
	if err != nil {
		return Session{}, fmt.Errorf("find a stream's session: %w", err)
	}
	return open, nil
}

// UpdateStats notes what the encoder of a live stream tells.
func (s *Store) UpdateStats(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID, t Stats) (Stream, error) {
	if err := t.check(); err != nil {
		return Stream{}, err
	}
	was, err := lock(ctx, tx, a, id)
	if err != nil {
		return Stream{}, err
	}
	if !was.IsLive {
		return Stream{}, ErrNotLive
	}
	if t.BytesSent != nil {
		if err := s.addBytes(ctx, tx, was, *t.BytesSent); err != nil {
			return Stream{}, err
		}
	}
	is, changed := t.apply(was)
	if len(changed) == 0 {
		return was, nil
	}
	if _, err := tx.Exec(ctx, `update streams set bitrate_kbps = $2, fps = $3, resolution = nullif($4, ''), codec = nullif($5, '') where id = $1`,
		is.ID, is.BitrateKbps, is.FPS, is.Resolution, is.Codec); err != nil {
		return Stream{}, fmt.Errorf("update a stream's figures: %w", err)
	}
	if err := is.tell(tx, a, "stream.updated", map[string]any{"stream_id": id, "fields": changed}); err != nil {
		return Stream{}, err
	}
	return is, nil
}

func (*Store) addBytes(ctx context.Context, tx *postgres.Tx, s Stream, total int64) error {
	open, err := openSession(ctx, tx, s)
	if err != nil {
		return err
	}
	if total < open.TotalBytesSent {
		return errs.NewInvalid("bytes_sent", fmt.Sprintf("must be at least %d, what was told before: it counts from the start", open.TotalBytesSent))
	}
	if _, err := tx.Exec(ctx, `update stream_sessions set total_bytes_sent = $2 where id = $1`, open.ID, total); err != nil {
		return fmt.Errorf("update a session's bytes: %w", err)
	}
	return nil
}

// Sessions lists when a stream was live, newest first.
func (s *Store) Sessions(ctx context.Context, a Account, id uuid.UUID, l List) (Page[Session], error) {
	limit, begin, err := l.check()
	if err != nil {
		return Page[Session]{}, err
	}
	of, err := s.readable(ctx, a, id)
	if err != nil {
		return Page[Session]{}, err
	}
	rows, _ := s.db.Query(ctx, `select `+sessionColumns+` from stream_sessions
		where stream_id = $1 and ($2::timestamptz is null or session_start <= $2)
		order by session_start desc, id desc offset $3 limit $4`, of.ID, begin.at, begin.skip, limit+1)
	items, err := pgx.CollectRows(rows, pgx.RowToStructByName[Session])
	if err != nil {
		return Page[Session]{}, fmt.Errorf("list a stream's sessions: %w", err)
	}
	for i, item := range items {
		items[i] = item.inUTC()
	}
	return cut(items, limit, begin, func(s Session) time.Time { return s.StartedAt }), nil
}

// readable reads a stream that a may see.
func (s *Store) readable(ctx context.Context, a Account, id uuid.UUID) (Stream, error) {
	got, err := find(ctx, s.db, "s.public_id = $1", id)
	if err != nil {
		return Stream{}, err
	}
	if !got.readableBy(a) {
		return Stream{}, ErrNotFound
	}
	return got, nil
}
