package stream

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/internal/base64url"
)

// Viewer is somebody watching, for ExpiresIn seconds unless renewed.
type Viewer struct {
	ID        uuid.UUID `json:"viewer_id"`
	ExpiresIn int       `json:"expires_in"`
}

// Figures are a live stream's viewers.
type Figures struct {
	Count int `json:"count"` // now
	Peak  int `json:"peak"`  // most at once since the start
	Total int `json:"total"` // joins since the start

	session uuid.UUID // that peak and total are of
}

// Join counts the account as a viewer of a live stream that it may see.
func (s *Store) Join(ctx context.Context, a Account, id uuid.UUID) (Viewer, error) {
	if s.cache == nil {
		return Viewer{}, errNoRedis
	}
	rows, err := s.loadLive(ctx, "s.public_id = $1", id)
	switch {
	case err != nil:
		return Viewer{}, err
	case len(rows) == 0 || !rows[0].readableBy(a):
		return Viewer{}, ErrNotFound
	case !rows[0].IsLive:
		return Viewer{}, ErrNotLive
	}
	viewer, err := uuid.NewV7()
	if err != nil {
		return Viewer{}, fmt.Errorf("name a viewer: %w", err)
	}
	ticket, err := s.ticket(visit{viewer: viewer, user: a.ID, joined: time.Now()}, id)
	if err != nil {
		return Viewer{}, err
	}
	args := append(s.sessionArgs(rows[0]), viewer.String(), strconv.FormatInt(a.ID, 10), strconv.Itoa(s.cfg.MaxViewers), ticket)
	reply, err := s.scripts.join.Exec(ctx, s.cache, viewerKeys(id), args...)
	if err != nil {
		return Viewer{}, unavailable(err)
	}
	switch n, err := reply.Int(); {
	case err != nil:
		return Viewer{}, unavailable(err)
	case n < 0:
		return Viewer{}, ErrTooManyViewers
	}
	// Written after the viewer and with a value of its own, so that a sweep
	// which saw no viewer yet cannot forget the stream.
	if err := s.cache.HSet(ctx, cache.StreamsActive, map[string]string{id.String(): viewer.String()}); err != nil {
		return Viewer{}, unavailable(err)
	}
	return s.viewer(viewer), nil
}

const ticketPurpose = "stream.viewer"

// ticket is what Redis keeps of a visit for PostgreSQL: account, beginning,
// and a seal, so that who can write to Redis cannot write history.
func (s *Store) ticket(v visit, of uuid.UUID) (string, error) {
	text := fmt.Sprintf("%d %d", v.user, v.joined.UnixMilli())
	if s.cfg.Keys == nil {
		return text, nil
	}
	mac, err := s.cfg.Keys.MAC(ticketPurpose, of[:], v.viewer[:], []byte(text))
	if err != nil {
		return "", fmt.Errorf("seal a visit: %w", err)
	}
	return text + " " + base64url.Encode(mac[:]), nil
}

// sealed reports whether a visit that Redis tells of took place here.
func (s *Store) sealed(v visit, of uuid.UUID) (bool, error) {
	if s.cfg.Keys == nil {
		return true, nil
	}
	mac, err := base64url.Decode(v.seal)
	if err != nil {
		return false, nil //nolint:nilerr // what is no seal seals nothing
	}
	text := fmt.Sprintf("%d %d", v.user, v.joined.UnixMilli())
	ok, err := s.cfg.Keys.Verify(ticketPurpose, mac, of[:], v.viewer[:], []byte(text))
	if err != nil {
		return false, fmt.Errorf("verify a visit: %w", err)
	}
	return ok, nil
}

// Renew keeps a viewer of the account's counted for another while.
func (s *Store) Renew(ctx context.Context, a Account, id, viewer uuid.UUID) (Viewer, error) {
	if err := s.ownViewer(ctx, s.scripts.renew, a, id, viewer); err != nil {
		return Viewer{}, err
	}
	return s.viewer(viewer), nil
}

// Leave ends a viewer of the account's.
func (s *Store) Leave(ctx context.Context, a Account, id, viewer uuid.UUID) error {
	return s.ownViewer(ctx, s.scripts.leave, a, id, viewer)
}

func (s *Store) ownViewer(ctx context.Context, script *cache.Script, a Account, id, viewer uuid.UUID) error {
	if s.cache == nil {
		return errNoRedis
	}
	reply, err := script.Exec(ctx, s.cache, viewerKeys(id), millis(s.cfg.ViewerTTL), viewer.String(), strconv.FormatInt(a.ID, 10))
	if err != nil {
		return unavailable(err)
	}
	done, err := reply.Int()
	if err != nil {
		return unavailable(err)
	}
	if done == 0 {
		return ErrViewerNotFound
	}
	return nil
}

// Viewers counts the viewers of a stream that the account may see.
func (s *Store) Viewers(ctx context.Context, a Account, id uuid.UUID) (Figures, error) {
	got, err := s.readable(ctx, a, id)
	if err != nil || !got.IsLive {
		return Figures{}, err
	}
	return s.figures(ctx, id)
}

func (s *Store) figures(ctx context.Context, id uuid.UUID) (Figures, error) {
	if s.cache == nil {
		return Figures{}, errNoRedis
	}
	reply, err := s.scripts.figures.Exec(ctx, s.cache, viewerKeys(id))
	if err != nil {
		return Figures{}, unavailable(err)
	}
	list, err := reply.Strings()
	if err != nil || len(list) != 4 {
		return Figures{}, unavailable(err)
	}
	return readFigures(list), nil
}

// readFigures reads count, total, peak and session; what is not a number counts as 0.
func readFigures(list []string) Figures {
	var f Figures
	for i, at := range []*int{&f.Count, &f.Total, &f.Peak} {
		n, _ := strconv.ParseInt(list[i], 10, 31)
		*at = max(int(n), 0)
	}
	f.session, _ = uuid.Parse(list[3])
	return f
}

func (s *Store) viewer(id uuid.UUID) Viewer {
	return Viewer{ID: id, ExpiresIn: max(int(s.cfg.ViewerTTL/time.Second), 1)}
}

// sessionArgs are what the scripts that keep peak and total begin with: the
// session, and what PostgreSQL knows of it in case Redis lost its own figures.
func (s *Store) sessionArgs(l liveRow) []string {
	session := ""
	if l.SessionID != nil {
		session = l.SessionID.String()
	}
	return []string{millis(s.cfg.ViewerTTL), session, strconv.Itoa(l.TotalViewers), strconv.Itoa(l.PeakViewers)}
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// unavailable makes sure that a fault of Redis is one a caller may retry.
func unavailable(err error) error {
	if errs.KindOf(err) == errs.Unavailable {
		return err
	}
	return errNoRedis.WithCause(err)
}
