package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"rootstream/backup/repo/run"
	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/errs"
)

const settledPart = "settled"

// mark stands beside the manifest of a backup that counts, and outranks what any
// record of a run says: those are replaced and deleted, so an old one can be put
// back where others may add or the storage keeps versions. It is written once
// the record says that the backup counts, and the record goes when it is there.
type mark struct {
	Manifest seal.Hash `json:"manifest"` // of its content
}

// markOf names the mark that belongs to a manifest.
func markOf(manifest string) string {
	return strings.TrimSuffix(manifest, manifestObj) + settledPart
}

// checkMark returns nil for the mark of this manifest. A manifest that cannot be read has no sum.
func (r *Repo) checkMark(ctx context.Context, name string, sum seal.Hash) error {
	var m mark
	err := r.safe.GetJSON(ctx, seal.KindMark, name, &m)
	if err == nil && sum != (seal.Hash{}) && m.Manifest != sum {
		err = seal.Damaged(name, "it is that of another content")
	}
	return err
}

// lost tells a manifest that is lost from one that is just gone: its mark is there, and no deletion has begun on it. Who
// deletes a backup says so first, and takes the mark after the manifest.
func (r *Repo) lost(ctx context.Context, manifest string, gone error) (fault, err error) {
	begun, err := r.intents(ctx)
	if errors.Is(err, ErrDamaged) {
		return gone, nil // it is named itself, and whether it takes the backup is not known
	}
	if err != nil {
		return nil, err
	}
	name, _ := parseBackupName(manifest)
	err = r.checkMark(ctx, markOf(manifest), seal.Hash{})
	switch {
	case storage.Gone(err), errors.Is(err, ErrDamaged), err == nil && taken(begun, name.id):
		return gone, nil
	case err != nil:
		return nil, err
	}
	return seal.Damaged(manifest, "it is lost; put it back, or delete the backup"), nil
}

// putMark leaves the mark of a manifest that counts.
func (r *Repo) putMark(ctx context.Context, manifest string, sum seal.Hash) error {
	name := markOf(manifest)
	err := r.safe.PutJSON(ctx, seal.KindMark, name, mark{sum})
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("say for good that a backup counts: %w", err)
	}
	if _, err = r.st.Stat(ctx, manifest); storage.Gone(err) { // deleted meanwhile
		return r.st.Delete(ctx, name)
	}
	return err
}

// conclude leaves the mark in place of the record. Until that has gone, it says the same.
func (s *Session) conclude(ctx context.Context, manifest string, sum seal.Hash) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.r.cfg.LeaseTTL)
	defer cancel()
	if err := s.r.putMark(ctx, manifest, sum); err != nil {
		return err
	}
	return s.run.Forget(ctx)
}

// conclude leaves the marks of runs that were killed before they could, or are older than marks are, takes away what
// dead runs had sent and came late, and drops what is on record of runs that are long over.
func (r *Repo) conclude(ctx context.Context) error {
	found, err := r.survey(ctx)
	if err != nil {
		return err
	}
	for _, s := range found {
		switch {
		case s.dead:
			err = r.retract(ctx, s.objects[0])
		case !s.settled && s.Err == nil && s.doubt == nil && s.mark == nil && !s.pending:
			err = r.putMark(ctx, s.objects[0], s.sum)
		}
		if err != nil {
			return err
		}
	}
	return r.runs.DropTombstones(ctx)
}

// retract takes away the manifest of a run that is on record as dead. If it may have a mark, the record is an old one.
func (r *Repo) retract(ctx context.Context, manifest string) error {
	_, err := r.st.Stat(ctx, markOf(manifest))
	if !storage.Gone(err) {
		return err
	}
	return r.st.Delete(ctx, manifest)
}

// weigh finds out from the records of runs whether a backup counts.
func (s *surveyed) weigh(records []*run.Record) {
	for _, o := range records {
		switch {
		case s.settled || o.ID != s.Run && o.Manifest != s.objects[0] || o.State == run.Committed:
		case o.Damage != nil:
			s.doubt = o.Damage
		case s.mark != nil:
			s.doubt = against(o, s.mark)
		default:
			s.pending, s.dead = true, o.State == run.Dead
		}
	}
}

// against adds to what is wrong with a mark that a record denies it.
func against(o *run.Record, fault error) error {
	return errs.Of(fault).WithHint("whether this backup counts is not known, for " + o.Object() +
		" says that it does not: once no run is under way, check with backup verify, then remove both objects, or delete the backup")
}

// counts returns nil if a backup that was found does.
func (r *Repo) counts(ctx context.Context, m Manifest, sum seal.Hash) error {
	object := m.object()
	fault := r.checkMark(ctx, markOf(object), sum)
	if fault == nil || !storage.Gone(fault) && !errors.Is(fault, ErrDamaged) {
		return fault
	}
	o, err := r.runs.Record(ctx, m.Run)
	switch {
	case storage.Gone(err):
		return nil
	case err != nil:
		return err
	case o.State == run.Committed:
		return nil
	case !storage.Gone(fault):
		return against(o, fault)
	}
	return ErrNoBackup.WithCause(fmt.Errorf("%s has not been committed", m.ID))
}
