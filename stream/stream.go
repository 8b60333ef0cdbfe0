package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/postgres"
)

// Config tunes a [Store]. Zero values mean the defaults.
type Config struct {
	ViewerTTL  time.Duration // a viewer not renewed for so long has left; 0 means 30s
	FlushEvery time.Duration // between writes of viewers' figures to PostgreSQL; 0 means 3s
	MaxStreams int           // of one account; 0 means 1000
	MaxViewers int           // that one account can be of one stream at once; 0 means 200
	Keys       Keys          // seal what Redis keeps of viewers; nil means that it is believed
	Logger     *slog.Logger  // nil means slog.Default
}

// Keys authenticate; see secret.Keyset.
type Keys interface {
	MAC(purpose string, parts ...[]byte) ([32]byte, error)
	Verify(purpose string, mac []byte, parts ...[]byte) (bool, error)
}

// Store keeps streams. It is safe for concurrent use.
type Store struct {
	db      *postgres.DB
	cache   *cache.Client
	cfg     Config
	scripts scripts
}

// New makes a Store. c may be nil: then there are no viewers.
func New(db *postgres.DB, c *cache.Client, cfg Config) (*Store, error) {
	if cfg.ViewerTTL < 0 || cfg.FlushEvery < 0 || cfg.MaxStreams < 0 || cfg.MaxViewers < 0 {
		return nil, errors.New("stream: ViewerTTL, FlushEvery, MaxStreams and MaxViewers must not be negative")
	}
	cfg.MaxStreams = cmp.Or(cfg.MaxStreams, 1000)
	cfg.MaxViewers = cmp.Or(cfg.MaxViewers, 200)
	cfg.ViewerTTL = cmp.Or(cfg.ViewerTTL, 30*time.Second)
	cfg.FlushEvery = cmp.Or(cfg.FlushEvery, 3*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	return &Store{db: db, cache: c, cfg: cfg, scripts: newScripts()}, nil
}

// Account is who asks.
type Account struct {
	ID       int64     // users.id
	PublicID uuid.UUID // users.public_id
	Operator bool      // may see and change every stream
}

// Stream is a row of streams.
type Stream struct {
	ID           int64      `json:"-"`
	OwnerID      int64      `json:"-"`
	PublicID     uuid.UUID  `json:"id"`
	UserID       uuid.UUID  `json:"user_id"` // the owner
	Name         string     `json:"name"`
	Description  string     `json:"description"`
	URL          string     `json:"stream_url"`
	ThumbnailURL string     `json:"thumbnail_url"`
	IsLive       bool       `json:"is_live"`
	IsPublic     bool       `json:"is_public"`    // anyone signed in may see it
	ViewerCount  int        `json:"viewer_count"` // now
	BitrateKbps  *int       `json:"bitrate_kbps"`
	FPS          *int       `json:"fps"`
	Resolution   string     `json:"resolution"` // WIDTHxHEIGHT in pixels
	Codec        string     `json:"codec"`
	CreatedAt    time.Time  `json:"created_at"`
	UpdatedAt    time.Time  `json:"updated_at"`
	StartedAt    *time.Time `json:"started_at"`
	EndedAt      *time.Time `json:"ended_at"`
}

// columns of a stream, for rows of Phase 24.2 too: there, almost all may be null.
const columns = `s.id, s.user_id as owner_id, s.public_id, u.public_id as user_id, s.name,
	coalesce(s.description, '') as description, coalesce(s.stream_url, '') as url,
	coalesce(s.thumbnail_url, '') as thumbnail_url, coalesce(s.is_live, false) as is_live,
	coalesce(s.is_public, true) as is_public, greatest(coalesce(s.viewer_count, 0), 0) as viewer_count,
	s.bitrate_kbps, s.fps, coalesce(s.resolution, '') as resolution, coalesce(s.codec, '') as codec,
	coalesce(s.created_at, s.updated_at, 'epoch') as created_at,
	coalesce(s.updated_at, s.created_at, 'epoch') as updated_at, s.started_at, s.ended_at`

const from = ` from streams s join users u on u.id = s.user_id `

func (s Stream) inUTC() Stream {
	s.CreatedAt, s.UpdatedAt = s.CreatedAt.UTC(), s.UpdatedAt.UTC()
	s.StartedAt, s.EndedAt = inUTC(s.StartedAt), inUTC(s.EndedAt)
	return s
}

func inUTC(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// readableBy reports whether a may see the stream.
func (s Stream) readableBy(a Account) bool { return s.IsPublic || s.changeableBy(a) }

func (s Stream) changeableBy(a Account) bool { return a.Operator || s.OwnerID == a.ID }

// find reads one stream; where is a condition on s with the one parameter $1.
func find(ctx context.Context, q postgres.Querier, where string, arg any) (Stream, error) {
	rows, _ := q.Query(ctx, "select "+columns+from+"where "+where, arg)
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Stream])
	if errors.Is(err, postgres.ErrNoRows) {
		return Stream{}, ErrNotFound
	}
	if err != nil {
		return Stream{}, fmt.Errorf("find a stream: %w", err)
	}
	return s.inUTC(), nil
}

// lock reads a stream that a may change, and keeps others from changing it until tx ends.
func lock(ctx context.Context, tx *postgres.Tx, a Account, id uuid.UUID) (Stream, error) {
	s, err := find(ctx, tx, "s.public_id = $1 for no key update of s", id)
	if err != nil {
		return Stream{}, err
	}
	if !s.changeableBy(a) {
		return Stream{}, ErrNotFound
	}
	return s, nil
}

// tell appends an event to the stream's history and the owner's audit trail.
func (s Stream) tell(tx *postgres.Tx, by Account, name string, data map[string]any) error {
	e := event.New{
		Aggregate: event.Ref{Type: "stream", ID: s.PublicID}, Name: name, Data: data, UserID: &s.UserID, Expect: event.Any,
	}
	if by.PublicID != uuid.Nil && by.PublicID != s.UserID {
		e.ActorID = &by.PublicID
	}
	return event.Append(tx, e)
}
