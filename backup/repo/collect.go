package repo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/run"
	"rootstream/backup/storage"
)

// CollectOptions say what is garbage.
type CollectOptions struct {
	MinAge time.Duration // packs younger than this stay for a run to resume; 0 means 24 hours
	Dry    bool

	// Choose names backups that are to go, too. It is asked once nobody else deletes, and told of all that there are
	// then, in the order of the catalog. Nil names none.
	Choose func([]Entry) []string
}

const collectAge = 24 * time.Hour

// Collect removes packs that no backup needs and no run is writing: what dead runs left behind; and what Delete does. It
// is safe beside running backups.
func (r *Repo) Collect(ctx context.Context, opts CollectOptions) (Report, error) {
	if opts.MinAge == 0 {
		opts.MinAge = collectAge
	}
	plan := func(ctx context.Context, begun []intent) (scheme, error) { return r.planCollect(ctx, begun, opts) }
	report, err := r.execute(ctx, opts.Dry, plan, r.conclude, r.dropProbes)
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
func (r *Repo) planCollect(ctx context.Context, begun []intent, opts CollectOptions) (todo scheme, _ error) {
	packs, err := r.packs.List(ctx)
	if err != nil {
		return todo, err
	}
	now, err := r.st.Now(ctx)
	if err != nil {
		return todo, err
	}
	records, err := r.runs.Records(ctx)
	if err != nil {
		return todo, err
	}
	alive, err := r.living(ctx, records, opts.Dry)
	if err != nil {
		return todo, err
	}
	inUse := marksInUse(records, alive)
	found, err := r.remaining(ctx, begun)
	if err != nil {
		return todo, err
	}
	var ids []string
	if opts.Choose != nil {
		ids = opts.Choose(entries(found))
	}
	if todo, err = r.planDelete(ctx, found, begun, ids); err != nil {
		return todo, err
	}
	for id, o := range packs {
		if !todo.stay[id] && !inUse[id.Mark()] && now.Sub(o.Modified) >= opts.MinAge {
			todo.Packs = append(todo.Packs, id)
		}
	}
	slices.SortFunc(todo.Packs, pack.Compare)
	todo.Packs = slices.Compact(todo.Packs)
	return todo, nil
}

// living are the runs that go on. Those that are found dead are buried, unless nothing is to be changed.
func (r *Repo) living(ctx context.Context, records []*run.Record, dry bool) (alive []*run.Record, err error) {
	for _, o := range records {
		over := o.Over()
		if !over && !dry && o.Lease != maintenance {
			name, err := r.runs.Bury(ctx, o)
			if err != nil {
				return nil, err
			}
			if over = name == ""; over {
				o.State = run.Dead
			}
		}
		if !over {
			alive = append(alive, o)
		}
	}
	return alive, nil
}

// marksInUse are those of running sessions, and of dead ones that a running one may resume.
func marksInUse(records, alive []*run.Record) map[[4]byte]bool {
	kinds, marks := map[string]bool{}, map[[4]byte]bool{}
	for _, o := range alive {
		kinds[o.Kind] = true
		marks[o.Mark()] = true
	}
	for _, o := range records {
		if o.State == run.Dead && kinds[o.Kind] {
			marks[o.Mark()] = true
		}
	}
	return marks
}
