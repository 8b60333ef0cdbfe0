package run

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/errs"
)

// Book has the records of the runs of a repository. It is safe for concurrent use.
type Book struct {
	safe    *seal.Safe
	st      storage.Storage
	ttl     time.Duration
	retract func(ctx context.Context, manifest string) error
	log     *slog.Logger
}

// NewBook returns a repository's. A run that has not said for ttl that it lives is dead; retract takes away what it wrote.
func NewBook(safe *seal.Safe, ttl time.Duration, retract func(ctx context.Context, manifest string) error, log *slog.Logger) *Book {
	return &Book{safe, safe.Storage(), ttl, retract, log}
}

// Record reads that of a run; storage.ErrNotFound if it has none any more.
func (b *Book) Record(ctx context.Context, id uuid.UUID) (*Record, error) {
	o, _, err := b.session(ctx, sessionsPrefix+id.String())
	return o, err
}

// Check opens a record or a lease, whichever the object is.
func (b *Book) Check(ctx context.Context, object string) error {
	if strings.HasPrefix(object, leasesPrefix) {
		return b.safe.GetJSON(ctx, seal.KindLease, object, &leaseObject{})
	}
	_, _, err := b.session(ctx, object)
	return err
}

// Bury declares a run dead whose process is gone, or that has not said for its time to live that it
// lives, and takes its manifest away. It names the run if that lives; "" means that it is over.
func (b *Book) Bury(ctx context.Context, o *Record) (alive string, err error) {
	return b.bury(ctx, o.Object())
}

// session reads a session with the tag that it has had at the latest when it was read.
func (b *Book) session(ctx context.Context, name string) (*Record, string, error) {
	info, err := b.st.Stat(ctx, name)
	if err != nil {
		return nil, "", err
	}
	var o Record
	err = b.safe.GetJSON(ctx, seal.KindSession, name, &o)
	if err == nil && o.Object() != name {
		err = seal.Damaged(name, "it belongs elsewhere")
	}
	if errors.Is(err, seal.ErrDamaged) {
		err = errs.Of(err).WithHint("whether what this run wrote counts is not known: once no run is under way, check with backup verify, then remove " +
			name + " from " + b.st.URL())
	}
	return &o, info.Tag, err
}

// look reads a session, and takes one that is damaged for a run that goes on until its time to live is over.
func (b *Book) look(ctx context.Context, name string) (*Record, string, error) {
	o, tag, err := b.session(ctx, name)
	if !errors.Is(err, seal.ErrDamaged) {
		return o, tag, err
	}
	info, gone := b.st.Stat(ctx, name)
	if gone != nil {
		return nil, "", gone
	}
	now, unknown := b.st.Now(ctx)
	if unknown != nil {
		return nil, "", unknown
	}
	o = &Record{State: Running, Started: time.Unix(0, 0), Damage: err}
	o.ID, _ = uuid.Parse(strings.TrimPrefix(name, sessionsPrefix)) // if it is none, no run has this session
	if now.Sub(info.Modified) > b.ttl {
		o.State = Dead
	}
	return o, info.Tag, nil
}

// Records reads all of them.
func (b *Book) Records(ctx context.Context) ([]*Record, error) {
	var all []*Record
	for info, err := range b.st.List(ctx, sessionsPrefix) {
		if err != nil {
			return nil, err
		}
		o, _, err := b.look(ctx, info.Name)
		if storage.Gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

func (b *Book) bury(ctx context.Context, name string) (alive string, err error) {
	o, tag, err := b.look(ctx, name)
	if storage.Gone(err) {
		return "", nil
	}
	if err != nil || o.Over() {
		return "", err
	}
	if o.damaged() {
		return o.String(), nil
	}
	why, err := b.signOfDeath(ctx, o, tag)
	if err != nil || why == "" {
		return o.String(), err
	}
	manifest := o.Manifest
	o.State = Dead
	body, err := b.safe.SealJSON(seal.KindSession, name, o)
	if err != nil {
		return "", err
	}
	if _, err := b.st.Swap(ctx, name, body, tag); errors.Is(err, storage.ErrChanged) {
		return o.String(), nil // it lives after all
	} else if err != nil {
		return "", err
	}
	b.log.WarnContext(ctx, "a run is taken for dead", "run", o.String(), "why", why)
	if manifest != "" {
		return "", b.retract(ctx, manifest)
	}
	return "", nil
}

// signOfDeath says why a run is taken for dead; "" if it may live.
func (b *Book) signOfDeath(ctx context.Context, o *Record, tag string) (string, error) {
	if o.Process.Ended() {
		return "its process is gone", nil
	}
	info, err := b.st.Stat(ctx, o.Object())
	if storage.Gone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	now, err := b.st.Now(ctx)
	if err != nil || info.Tag != tag || now.Sub(info.Modified) <= o.TTL {
		return "", err
	}
	return "it has not said for long that it lives", nil
}

// tombstoneAge is how long a dead run stays on record: one that wakes later finds its context over.
const tombstoneAge = 7 * 24 * time.Hour

// DropTombstones removes sessions that are long over, and with them what a dead run may have written since.
func (b *Book) DropTombstones(ctx context.Context) error {
	now, err := b.st.Now(ctx)
	if err != nil {
		return err
	}
	for info, err := range b.st.List(ctx, sessionsPrefix) {
		if err != nil {
			return err
		}
		alive, err := b.bury(ctx, info.Name)
		if err != nil {
			return err
		}
		o, _, err := b.look(ctx, info.Name)
		if storage.Gone(err) || alive != "" {
			continue
		}
		if err != nil {
			return err
		}
		if o.damaged() || o.State == Dead && now.Sub(info.Modified) < tombstoneAge {
			continue
		}
		if o.State == Dead && o.Manifest != "" {
			err = b.retract(ctx, o.Manifest)
		}
		if err = errors.Join(err, b.st.Delete(ctx, info.Name)); err != nil {
			return err
		}
	}
	return nil
}
