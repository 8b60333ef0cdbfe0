package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/run"
	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/backup/wal"
)

// Report is what a deletion did, or would do.
type Report struct {
	Backups []string `json:"backups,omitempty"` // that are gone
	Objects int      `json:"objects"`           // packs or files of the log that are gone
	Bytes   int64    `json:"bytes"`             // that they took
	Spared  int      `json:"spared"`            // packs that somebody came to need meanwhile
	Waiting []string `json:"waiting,omitempty"` // runs that may need data: it goes with the next deletion after they end
}

func (p *Report) add(o Report) {
	p.Backups = append(p.Backups, o.Backups...)
	p.Objects += o.Objects
	p.Bytes += o.Bytes
	p.Spared += o.Spared
	for _, w := range o.Waiting {
		if !slices.Contains(p.Waiting, w) {
			p.Waiting = append(p.Waiting, w)
		}
	}
}

const maintenance = "maintenance" // the lease of deletions: one at a time is enough, though any number would be safe

// Delete removes backups, and the packs that only they need. It first says so
// for all to see (an intent), then looks again who needs what, then waits for
// the runs that cannot know. What it cannot finish, the next one does.
func (r *Repo) Delete(ctx context.Context, ids []string, dry bool) (Report, error) {
	var report Report
	if dry {
		in, err := r.planDelete(ctx, ids)
		if err != nil {
			return report, fmt.Errorf("delete backups: %w", err)
		}
		return r.foresee(ctx, in, ids)
	}
	err := r.withLease(ctx, maintenance, func(ctx context.Context) (err error) {
		if report, err = r.finishAll(ctx); err != nil {
			return err
		}
		in, err := r.planDelete(ctx, ids)
		if err != nil {
			return err
		}
		done, err := r.declare(ctx, in)
		done.Backups = ids
		report.add(done)
		return err
	})
	if err != nil {
		err = fmt.Errorf("delete backups: %w", err)
	}
	return report, err
}

// planDelete finds the packs that only these backups need.
func (r *Repo) planDelete(ctx context.Context, ids []string) (intent, error) {
	found, err := r.survey(ctx)
	if err != nil {
		return intent{}, err
	}
	var in intent
	for _, id := range ids {
		i := slices.IndexFunc(found, func(s *surveyed) bool { return s.ID == id && !s.pending })
		switch {
		case i < 0:
			return intent{}, ErrNoBackup.WithCause(errors.New(id))
		case found[i].Pinned:
			return intent{}, ErrPinned.WithCause(errors.New(id)).WithHint("unpin it first")
		}
		in.Backups = append(in.Backups, found[i].prefix())
		in.Packs = append(in.Packs, found[i].Packs...)
		found = slices.Delete(found, i, i+1)
	}
	needed, err := needed(found)
	if err != nil {
		return intent{}, err
	}
	slices.SortFunc(in.Packs, pack.Compare)
	in.Packs = slices.DeleteFunc(slices.Compact(in.Packs), func(p pack.ID) bool { return needed[p] })
	return in, nil
}

// needed is every pack that a manifest names, committed or not. A manifest that
// cannot be read may need anything.
func needed(found []*surveyed) (map[pack.ID]bool, error) {
	packs := map[pack.ID]bool{}
	for _, s := range found {
		if s.Err != nil {
			return nil, fmt.Errorf("nothing can be deleted that a damaged backup may need; delete %s itself first: %w", s.ID, s.Err)
		}
		for _, p := range s.Packs {
			packs[p] = true
		}
	}
	return packs, nil
}

// foresee says what carrying out the intent would do.
func (r *Repo) foresee(ctx context.Context, in intent, ids []string) (Report, error) {
	sizes, err := r.packs.List(ctx)
	report := Report{Backups: ids}
	for _, p := range in.Packs {
		if o, there := sizes[p]; there {
			report.Objects++
			report.Bytes += o.Size
		}
	}
	return report, err
}

// declare writes the intent and carries it out.
func (r *Repo) declare(ctx context.Context, in intent) (Report, error) {
	if len(in.Backups)+len(in.Packs) == 0 {
		return Report{}, nil
	}
	now, err := r.st.Now(ctx)
	if err != nil {
		return Report{}, err
	}
	in.ID, in.Created = uuid.NewString(), now.UTC()
	if err := r.safe.PutJSON(ctx, seal.KindIntent, intentsPrefix+in.ID, in); err != nil {
		return Report{}, fmt.Errorf("declare a deletion: %w", err)
	}
	return r.carryOut(ctx, in)
}

// finishAll carries out what earlier deletions could not.
func (r *Repo) finishAll(ctx context.Context) (Report, error) {
	var report Report
	intents, err := r.intents(ctx)
	if err != nil {
		return report, err
	}
	for _, in := range intents {
		done, err := r.carryOut(ctx, in)
		report.add(done)
		if err != nil {
			return report, err
		}
	}
	return report, nil
}

// carryOut deletes what an intent lists. Anybody may do it at any time, also
// twice, also after somebody else has: names are never used again, and whoever
// began before the intent and has not ended may still say that it needs a pack.
func (r *Repo) carryOut(ctx context.Context, in intent) (Report, error) {
	var report Report
	for _, prefix := range in.Backups {
		if err := r.deleteBackup(ctx, prefix); err != nil {
			return report, err
		}
	}
	var err error
	if report.Waiting, err = r.unaware(ctx, in.ID); err != nil || len(report.Waiting) > 0 {
		return report, err
	}
	found, err := r.survey(ctx)
	if err != nil {
		return report, err
	}
	stay, err := needed(found)
	if err != nil {
		return report, err
	}
	sizes, err := r.packs.List(ctx)
	if err != nil {
		return report, err
	}
	var names []string
	for _, p := range in.Packs {
		o, there := sizes[p]
		switch {
		case stay[p]:
			report.Spared++
		case there:
			names = append(names, o.Name)
			report.Objects++
			report.Bytes += o.Size
		}
	}
	if err := storage.DeleteAll(ctx, r.st, names); err != nil {
		return report, err
	}
	return report, r.st.Delete(ctx, intentsPrefix+in.ID)
}

// deleteBackup removes a backup's objects, the manifest first.
func (r *Repo) deleteBackup(ctx context.Context, prefix string) error {
	if name, ok := parseBackupName(prefix + manifestObj); !ok {
		return seal.Damaged(prefix, "%q is no backup", name.id)
	}
	if err := r.st.Delete(ctx, prefix+manifestObj); err != nil {
		return err
	}
	for o, err := range r.st.List(ctx, prefix) {
		if err != nil {
			return err
		}
		if err := r.st.Delete(ctx, o.Name); err != nil {
			return err
		}
	}
	return nil
}

// unaware names the runs that have not said that they know of an intent. Those that are dead are buried first.
func (r *Repo) unaware(ctx context.Context, id string) ([]string, error) {
	sessions, err := r.runs.Records(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, o := range sessions {
		if o.Lease == maintenance || o.Over() || o.Ready && slices.Contains(o.Seen, id) {
			continue // deletions write no backups
		}
		alive, err := r.runs.Bury(ctx, o)
		if err != nil {
			return nil, err
		}
		if alive != "" {
			names = append(names, alive)
		}
	}
	return names, nil
}

// CollectOptions say what is garbage.
type CollectOptions struct {
	MinAge time.Duration // packs younger than this stay for a run to resume; 0 means 24 hours
	Dry    bool
}

const collectAge = 24 * time.Hour

// Collect removes packs that no backup needs and no run is writing: what dead runs left behind. It is safe beside running backups.
func (r *Repo) Collect(ctx context.Context, opts CollectOptions) (Report, error) {
	if opts.MinAge == 0 {
		opts.MinAge = collectAge
	}
	var report Report
	if opts.Dry {
		in, err := r.planCollect(ctx, opts)
		if err != nil {
			return report, fmt.Errorf("collect garbage: %w", err)
		}
		return r.foresee(ctx, in, nil)
	}
	err := r.withLease(ctx, maintenance, func(ctx context.Context) (err error) {
		if report, err = r.finishAll(ctx); err != nil {
			return err
		}
		in, err := r.planCollect(ctx, opts)
		if err != nil {
			return err
		}
		done, err := r.declare(ctx, in)
		report.add(done)
		return errors.Join(err, r.conclude(ctx), r.dropProbes(ctx))
	})
	if err != nil {
		err = fmt.Errorf("collect garbage: %w", err)
	}
	return report, err
}

// dropProbes removes what was left by those who were killed while they tried the storage.
func (r *Repo) dropProbes(ctx context.Context) error {
	now, err := r.st.Now(ctx)
	if err != nil {
		return err
	}
	for o, err := range r.st.List(ctx, storage.Probes) {
		if err == nil && now.Sub(o.Modified) > collectAge {
			err = r.st.Delete(ctx, o.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// planCollect looks for garbage: packs first, then runs, then backups, so that
// whoever wrote a pack that is listed is either seen running or its backup is.
func (r *Repo) planCollect(ctx context.Context, opts CollectOptions) (intent, error) {
	packs, err := r.packs.List(ctx)
	if err != nil {
		return intent{}, err
	}
	now, err := r.st.Now(ctx)
	if err != nil {
		return intent{}, err
	}
	sessions, err := r.runs.Records(ctx)
	if err != nil {
		return intent{}, err
	}
	inUse := marksInUse(sessions)
	found, err := r.survey(ctx)
	if err != nil {
		return intent{}, err
	}
	stay, err := needed(found)
	if err != nil {
		return intent{}, err
	}
	var in intent
	for _, id := range slices.SortedFunc(maps.Keys(packs), pack.Compare) {
		if !stay[id] && !inUse[id.Mark()] && now.Sub(packs[id].Modified) >= opts.MinAge {
			in.Packs = append(in.Packs, id)
		}
	}
	return in, nil
}

// marksInUse are those of running sessions, and of dead ones that a running one may resume.
func marksInUse(sessions []*run.Record) map[[4]byte]bool {
	kinds, marks := map[string]bool{}, map[[4]byte]bool{}
	for _, o := range sessions {
		if !o.Over() {
			kinds[o.Kind] = true
			marks[o.Mark()] = true
		}
	}
	for _, o := range sessions {
		if o.State == run.Dead && kinds[o.Kind] {
			marks[o.Mark()] = true
		}
	}
	return marks
}

// NeededWAL is what is to be kept of a cluster's log: Ranges, and what was
// stored since what [Repo.InUseSince] said before the catalog was read from which
// they follow. Segments have SegmentSize bytes.
type NeededWAL struct {
	Ranges      []wal.Range
	Since       time.Time
	SegmentSize uint32
}

// DropWAL removes the files of a cluster's log that are not needed. Histories stay.
func (r *Repo) DropWAL(ctx context.Context, system uint64, needed NeededWAL, dry bool) (Report, error) {
	var report Report
	outside, err := r.WALOutside(ctx, system, needed.SegmentSize, needed.Ranges, needed.Since)
	if err != nil {
		return report, fmt.Errorf("drop WAL: %w", err)
	}
	names := make([]string, len(outside))
	for i, info := range outside {
		names[i] = info.Object
		report.Objects++
		report.Bytes += info.Stored
	}
	if dry {
		return report, nil
	}
	return report, storage.DeleteAll(ctx, r.st, names)
}

// InUseSince is when the oldest run began that is not over, or else now: what is stored from then on, a backup may need
// that is in no catalog yet.
func (r *Repo) InUseSince(ctx context.Context) (time.Time, error) {
	oldest, err := r.Now(ctx)
	if err != nil {
		return oldest, err
	}
	sessions, err := r.runs.Records(ctx)
	for _, o := range sessions {
		if !o.Over() && o.Lease != maintenance && o.Started.Before(oldest) {
			oldest = o.Started
		}
	}
	return oldest, err
}
