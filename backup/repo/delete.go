package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"rootstream/backup/repo/logs"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
)

// Report is what a deletion did, or would do.
type Report struct {
	Backups  []string `json:"backups,omitempty"` // that are gone
	Objects  int      `json:"objects"`           // packs or files of the log that are gone
	Bytes    int64    `json:"bytes"`             // that they took
	WALFiles int      `json:"wal_files"`         // of the objects: files of the log
	WALBytes int64    `json:"wal_bytes"`         // that these took
	Spared   int      `json:"spared"`            // packs that somebody came to need meanwhile
	Waiting  []string `json:"waiting,omitempty"` // runs that may need data: it goes with the next deletion after they end
}

func (p *Report) pack(o storage.Object) {
	p.Objects++
	p.Bytes += o.Size
}

func (p *Report) log(below []WALInfo) {
	for _, info := range below {
		p.pack(storage.Object{Size: info.Stored})
		p.WALFiles++
		p.WALBytes += info.Stored
	}
}

const maintenance = "maintenance" // the lease of deletions: one at a time is enough, though any number would be safe

// Delete removes backups, and the packs that only they need; and the log that no backup is left to need, also without
// any backups to remove. It first says so for all to see (intents), then looks again who needs what, then waits for
// the runs that cannot know. What it cannot finish, the next one does: to that, what has been begun on is there.
func (r *Repo) Delete(ctx context.Context, ids []string, dry bool) (Report, error) {
	report, err := r.execute(ctx, dry, func(ctx context.Context, begun []intent) (scheme, error) {
		found, err := r.remaining(ctx, begun)
		if err != nil {
			return scheme{}, err
		}
		return r.planDelete(ctx, found, begun, ids)
	})
	if err != nil {
		err = fmt.Errorf("delete backups: %w", err)
	}
	return report, err
}

// scheme is what a deletion would take: backups, packs, and the log below floors.
type scheme struct {
	intent
	ids   []string
	below []WALInfo
	stay  map[pack.ID]bool // what other backups need
}

// execute carries out a plan, and what earlier deletions could not; then it sweeps. The plan is told what these are.
func (r *Repo) execute(
	ctx context.Context, dry bool, plan func(context.Context, []intent) (scheme, error), sweeps ...func(context.Context) error,
) (Report, error) {
	if dry {
		return r.foresee(ctx, plan)
	}
	var report Report
	err := r.withLease(ctx, maintenance, func(ctx context.Context) error {
		intents, finished, err := r.begun(ctx)
		if err == nil {
			err = r.deleteBackups(ctx, intents)
		}
		if err != nil {
			return err
		}
		todo, err := plan(ctx, intents)
		if err == nil {
			intents, err = r.declare(ctx, intents, todo.intent)
		}
		if err == nil {
			report, err = r.carryOut(ctx, intents)
			report.Backups = unique(slices.Concat(finished, todo.ids)...)
		}
		for _, sweep := range sweeps {
			if err == nil {
				err = sweep(ctx)
			}
		}
		return err
	})
	return report, err
}

// begun are the deletions that others could not finish, and the backups that are still to go with them.
func (r *Repo) begun(ctx context.Context) (intents []intent, ids []string, err error) {
	if intents, err = r.intents(ctx); err != nil {
		return nil, nil, err
	}
	for _, in := range intents {
		for _, prefix := range in.Backups {
			for o, err := range r.st.List(ctx, prefix) {
				if err != nil {
					return nil, nil, err
				}
				if name, ok := parseBackupName(o.Name); ok {
					ids = append(ids, name.id)
				}
			}
		}
	}
	return intents, ids, nil
}

// unique sorts names and keeps one of each.
func unique(names ...string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// remaining are the backups that no deletion has begun on.
func (r *Repo) remaining(ctx context.Context, begun []intent) ([]*surveyed, error) {
	found, err := r.survey(ctx)
	return slices.DeleteFunc(found, func(s *surveyed) bool { return taken(begun, s.ID) }), err
}

// planDelete finds the packs and the log that of these backups only some need.
func (r *Repo) planDelete(ctx context.Context, found []*surveyed, begun []intent, ids []string) (scheme, error) {
	todo := scheme{ids: unique(ids...)}
	for _, id := range todo.ids {
		i := slices.IndexFunc(found, func(s *surveyed) bool { return s.ID == id && !s.pending })
		switch {
		case i < 0 && taken(begun, id):
			continue
		case i < 0:
			return todo, ErrNoBackup.WithCause(errors.New(id))
		case found[i].Pinned:
			return todo, ErrPinned.WithCause(errors.New(id)).WithHint("unpin it first")
		}
		todo.Backups = append(todo.Backups, found[i].prefix())
		todo.Packs = append(todo.Packs, found[i].Packs...)
		found = slices.Delete(found, i, i+1)
	}
	var err error
	if todo.stay, err = needed(found); err != nil {
		return todo, err
	}
	slices.SortFunc(todo.Packs, pack.Compare)
	todo.Packs = slices.DeleteFunc(slices.Compact(todo.Packs), func(p pack.ID) bool { return todo.stay[p] })
	return todo, r.planLog(ctx, found, &todo)
}

// planLog finds the log below what these backups need. Its floors are as high as what there is to go, no higher.
func (r *Repo) planLog(ctx context.Context, found []*surveyed, todo *scheme) error {
	floors, err := r.floors(ctx, found)
	if err != nil {
		return err
	}
	for _, f := range floors {
		below, end, err := r.Below(ctx, f)
		if err != nil {
			return err
		}
		if f.At = end; len(below) > 0 {
			todo.below, todo.Log = append(todo.below, below...), append(todo.Log, f)
		}
	}
	return nil
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

// foresee says what carrying out a plan would do.
func (r *Repo) foresee(ctx context.Context, plan func(context.Context, []intent) (scheme, error)) (Report, error) {
	begun, finished, err := r.begun(ctx)
	if err != nil {
		return Report{}, err
	}
	todo, err := plan(ctx, begun)
	if err != nil {
		return Report{}, err
	}
	report := Report{Backups: unique(slices.Concat(finished, todo.ids)...)}
	report.log(todo.below)
	sizes, err := r.packs.List(ctx)
	for _, p := range todo.Packs {
		if o, there := sizes[p]; there {
			report.pack(o)
		}
	}
	return report, err
}

// declare writes down what is to go, and returns it with the intents that there are. The floors of logs are an intent
// of their own, which names all that there are, since it stands until a later one does.
func (r *Repo) declare(ctx context.Context, intents []intent, in intent) ([]intent, error) {
	log, rose := raised(floorsOf(intents), in.Log)
	in.Log = nil
	var fresh []intent
	if rose {
		fresh = append(fresh, intent{Log: log})
	}
	if len(in.Backups)+len(in.Packs) > 0 {
		fresh = append(fresh, in)
	}
	if len(fresh) == 0 {
		return intents, nil
	}
	now, err := r.st.Now(ctx)
	if err != nil {
		return nil, err
	}
	for i := range fresh {
		fresh[i].ID, fresh[i].Created = uuid.NewString(), now.UTC()
		if err := r.safe.PutJSON(ctx, seal.KindIntent, fresh[i].object(), fresh[i]); err != nil {
			return nil, fmt.Errorf("declare a deletion: %w", err)
		}
	}
	return append(intents, fresh...), r.deleteBackups(ctx, fresh)
}

// carryOut deletes what intents list. Anybody may do it at any time, also twice, also after somebody else has: names of
// packs are never used again, log below a floor never counts again, and whoever began before an intent and has not
// ended may still say that it needs something.
func (r *Repo) carryOut(ctx context.Context, intents []intent) (Report, error) {
	var report Report
	var known []intent // to all runs
	for _, in := range intents {
		waiting, err := r.unaware(ctx, in.ID)
		if err != nil {
			return report, err
		}
		if len(waiting) == 0 {
			known = append(known, in)
		}
		report.Waiting = append(report.Waiting, waiting...)
	}
	report.Waiting = unique(report.Waiting...)
	if len(known) == 0 {
		return report, nil
	}
	found, err := r.survey(ctx)
	if err != nil {
		return report, err
	}
	names, err := r.unneeded(ctx, known, found, &report)
	if err == nil {
		err = r.unneededLog(ctx, floorsOf(known), found, &report, &names)
	}
	if err == nil {
		err = storage.DeleteAll(ctx, r.st, names)
	}
	if err != nil {
		return report, err
	}
	return report, r.complete(ctx, intents, known)
}

// unneeded names the packs that go.
func (r *Repo) unneeded(ctx context.Context, intents []intent, found []*surveyed, report *Report) (names []string, err error) {
	stay, err := needed(found)
	if err != nil {
		return nil, err
	}
	sizes, err := r.packs.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, in := range intents {
		for _, p := range in.Packs {
			o, there := sizes[p]
			switch {
			case stay[p]:
				report.Spared++
			case there:
				names = append(names, o.Name)
				report.pack(o)
				delete(sizes, p)
			}
		}
	}
	return names, nil
}

// unneededLog adds the log that goes: what is below the floors, and below what each backup needs.
func (r *Repo) unneededLog(ctx context.Context, floors []logs.Floor, found []*surveyed, report *Report, names *[]string) error {
	if len(floors) == 0 {
		return nil
	}
	needed, err := r.floors(ctx, found)
	if err != nil {
		return err
	}
	for _, f := range needed {
		i := slices.IndexFunc(floors, f.Same)
		if i < 0 {
			continue
		}
		f.At = min(f.At, floors[i].At)
		below, _, err := r.Below(ctx, f)
		if err != nil {
			return err
		}
		report.log(below)
		for _, info := range below {
			*names = append(*names, info.Object)
		}
	}
	return nil
}

// complete removes intents that have been carried out. Floors stay: log that is stored again, or that a deletion takes
// which wakes late, is not to count. They go once others that are carried out say all that they do.
func (r *Repo) complete(ctx context.Context, intents, done []intent) error {
	for _, in := range intents {
		is := func(o intent) bool { return o.ID == in.ID }
		over := slices.ContainsFunc(done, is)
		if in.Log != nil {
			over = slices.ContainsFunc(done, in.within)
		}
		if !over {
			continue
		}
		if err := r.st.Delete(ctx, in.object()); err != nil {
			return err
		}
	}
	return nil
}

// deleteBackups removes the objects of backups that are to go.
func (r *Repo) deleteBackups(ctx context.Context, intents []intent) error {
	for _, in := range intents {
		for _, prefix := range in.Backups {
			if err := r.deleteBackup(ctx, prefix); err != nil {
				return err
			}
		}
	}
	return nil
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
