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

// Recording is a file that holds what was streamed.
type Recording struct {
	ID              int64      `json:"-"`
	PublicID        uuid.UUID  `json:"id"`
	SessionID       uuid.UUID  `json:"session_id"`
	Path            string     `json:"file_path"` // below the place where recordings are kept
	SizeBytes       *int64     `json:"file_size_bytes"`
	DurationSeconds *int       `json:"duration_seconds"`
	Codec           string     `json:"codec"`
	Resolution      string     `json:"resolution"`
	FPS             *int       `json:"fps"`
	BitrateKbps     *int       `json:"bitrate_kbps"`
	IsProcessed     bool       `json:"is_processed"`
	IsAvailable     bool       `json:"is_available"`
	CreatedAt       time.Time  `json:"created_at"`
	ExpiresAt       *time.Time `json:"expires_at"`
}

const recordingColumns = `r.id, r.public_id, o.public_id as session_id, r.file_path as path, r.file_size_bytes as size_bytes,
	r.duration_seconds, coalesce(r.codec, '') as codec, coalesce(r.resolution, '') as resolution, r.fps, r.bitrate_kbps,
	coalesce(r.is_processed, false) as is_processed, coalesce(r.is_available, true) as is_available,
	coalesce(r.created_at, 'epoch') as created_at, r.expires_at`

// File is a recording about to be noted.
type File struct {
	SessionID       *uuid.UUID `json:"session_id"` // nil means the stream's newest session
	Path            string     `json:"file_path"`
	SizeBytes       int64      `json:"file_size_bytes"`
	DurationSeconds *int       `json:"duration_seconds"`
	Codec           string     `json:"codec"`
	Resolution      string     `json:"resolution"`
	FPS             *int       `json:"fps"`
	BitrateKbps     *int       `json:"bitrate_kbps"`
	ExpiresAt       *time.Time `json:"expires_at"`
}

func (r File) check() error {
	var f errs.Fields
	checkPath(&f, r.Path)
	if r.SizeBytes <= 0 {
		f.Add("file_size_bytes", "must be more than 0")
	}
	if r.DurationSeconds != nil && (*r.DurationSeconds < 0 || *r.DurationSeconds > 1<<31-1) {
		f.Add("duration_seconds", "must be between 0 and 2147483647")
	}
	checkCodec(&f, r.Codec)
	checkResolution(&f, r.Resolution)
	checkFPS(&f, r.FPS)
	checkBitrate(&f, r.BitrateKbps)
	return f.Err()
}

// AddRecording notes a file that holds what was streamed in a session.
func (s *Store) AddRecording(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID, r File) (Recording, error) {
	if err := r.check(); err != nil {
		return Recording{}, err
	}
	of, err := lock(ctx, tx, a, id)
	if err != nil {
		return Recording{}, err
	}
	var session int64
	err = tx.QueryRow(ctx, `update stream_sessions set is_recorded = true, recording_path = $3
		where id = (select id from stream_sessions where stream_id = $1 and ($2::uuid is null or public_id = $2)
			order by session_start desc, id desc limit 1) returning id`, of.ID, r.SessionID, r.Path).Scan(&session)
	switch {
	case errors.Is(err, postgres.ErrNoRows) && r.SessionID == nil:
		return Recording{}, ErrNoSession
	case errors.Is(err, postgres.ErrNoRows):
		return Recording{}, ErrSessionUnknown
	case err != nil:
		return Recording{}, fmt.Errorf("mark a session as recorded: %w", err)
	}
	name, err := uuid.NewV7()
	if err != nil {
		return Recording{}, fmt.Errorf("name a recording: %w", err)
	}
	rows, _ := tx.Query(ctx, `with r as (insert into recordings (public_id, stream_id, session_id, file_path, file_size_bytes, duration_seconds,
			codec, resolution, fps, bitrate_kbps, created_at, expires_at)
		values ($1, $2, $3, $4, $5, $6, nullif($7, ''), nullif($8, ''), $9, $10, clock_timestamp(), $11) returning *)
		select `+recordingColumns+` from r join stream_sessions o on o.id = r.session_id`,
		name, of.ID, session, r.Path, r.SizeBytes, r.DurationSeconds, r.Codec, r.Resolution, r.FPS, r.BitrateKbps, r.ExpiresAt)
	made, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Recording])
	if err != nil {
		return Recording{}, fmt.Errorf("add a recording: %w", err)
	}
	return made.inUTC(), of.tell(tx, a, "recording.added", map[string]any{
		"stream_id": id, "recording_id": name, "session_id": made.SessionID,
	})
}

func (r Recording) inUTC() Recording {
	r.CreatedAt, r.ExpiresAt = r.CreatedAt.UTC(), inUTC(r.ExpiresAt)
	return r
}

// Recordings lists a stream's recordings, newest first. Who may not change the
// stream sees those that are available and not expired.
func (s *Store) Recordings(ctx context.Context, a Account, id uuid.UUID, l List) (Page[Recording], error) {
	limit, begin, err := l.check()
	if err != nil {
		return Page[Recording]{}, err
	}
	of, err := s.readable(ctx, a, id)
	if err != nil {
		return Page[Recording]{}, err
	}
	rows, _ := s.db.Query(ctx, `select `+recordingColumns+` from recordings r join stream_sessions o on o.id = r.session_id
		where r.stream_id = $1 and ($2::timestamptz is null or coalesce(r.created_at, 'epoch') <= $2)
			and ($5 or coalesce(r.is_available, true) and (r.expires_at is null or r.expires_at > now()))
		order by coalesce(r.created_at, 'epoch') desc, r.id desc offset $3 limit $4`,
		of.ID, begin.at, begin.skip, limit+1, of.changeableBy(a))
	items, err := pgx.CollectRows(rows, pgx.RowToStructByName[Recording])
	if err != nil {
		return Page[Recording]{}, fmt.Errorf("list recordings: %w", err)
	}
	for i, item := range items {
		items[i] = item.inUTC()
	}
	return cut(items, limit, begin, func(r Recording) time.Time { return r.CreatedAt }), nil
}

// Usage is a line of usage_logs.
type Usage struct {
	StreamID         *uuid.UUID `json:"stream_id"`  // nil once the stream is deleted
	EventType        string     `json:"event_type"` // stream_start, stream_end, viewer_join, viewer_leave
	BytesTransferred int64      `json:"bytes_transferred"`
	DurationSeconds  int        `json:"duration_seconds"`
	CreatedAt        time.Time  `json:"created_at"`
}

// Usage lists what the account streamed and watched, newest first.
func (s *Store) Usage(ctx context.Context, a Account, l List) (Page[Usage], error) {
	limit, begin, err := l.check()
	if err != nil {
		return Page[Usage]{}, err
	}
	rows, _ := s.db.Query(ctx, `select s.public_id as stream_id, coalesce(g.event_type, '') as event_type,
			coalesce(g.bytes_transferred, 0) as bytes_transferred, coalesce(g.duration_seconds, 0) as duration_seconds,
			coalesce(g.created_at, 'epoch') as created_at
		from usage_logs g left join streams s on s.id = g.stream_id
		where g.user_id = $1 and ($2::timestamptz is null or coalesce(g.created_at, 'epoch') <= $2)
		order by coalesce(g.created_at, 'epoch') desc, g.id desc offset $3 limit $4`, a.ID, begin.at, begin.skip, limit+1)
	items, err := pgx.CollectRows(rows, pgx.RowToStructByName[Usage])
	if err != nil {
		return Page[Usage]{}, fmt.Errorf("list usage: %w", err)
	}
	for i := range items {
		items[i].CreatedAt = items[i].CreatedAt.UTC()
	}
	return cut(items, limit, begin, func(u Usage) time.Time { return u.CreatedAt }), nil
}
