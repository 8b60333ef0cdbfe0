package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"rootstream/backup/repo/files"
	"rootstream/backup/repo/logs"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
)

// Finding is something wrong with an object.
type Finding struct {
	Object string
	Backup string // that is the worse for it, if it is known
	Err    error
}

// VerifyOptions say what to look at, and how closely.
type VerifyOptions struct {
	IDs      []string                // backups; none means everything that the repository has
	Quick    bool                    // do not read the data: only that all of it is there
	Parallel int                     // packs read at once; 0 means 2
	Progress func(done, total int64) // bytes; may be nil; called by many goroutines
}

// Verify looks at every object, and at every reference from one to another. It
// yields what is wrong; the error is of a storage that does not answer, and ends it.
func (r *Repo) Verify(ctx context.Context, opts VerifyOptions) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		run, cancel := context.WithCancel(ctx)
		findings := make(chan Finding)
		done := make(chan error, 1)
		go func() {
			v := &verification{r: r, opts: opts, out: findings, blobs: map[pack.ID][]pack.Blob{}}
			err := v.run(run)
			close(findings)
			done <- err
		}()
		more := true
		for f := range findings {
			if more = more && yield(f, nil); !more {
				cancel()
			}
		}
		err := <-done
		cancel()
		if more && err != nil {
			yield(Finding{}, fmt.Errorf("verify: %w", err))
		}
	}
}

type verification struct {
	r     *Repo
	opts  VerifyOptions
	out   chan<- Finding
	blobs map[pack.ID][]pack.Blob // of packs whose footer can be read
	users map[pack.ID][]string
	sizes map[pack.ID]storage.Object
	done  atomic.Int64
	total int64
}

// judge reports what is wrong with an object; it returns the errors that say nothing about it.
func (v *verification) judge(ctx context.Context, object, backup string, err error) error {
	if err == nil {
		return nil
	}
	known := errors.Is(err, ErrDamaged) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrShort) ||
		errors.Is(err, ErrFormat) || errors.Is(err, ErrWALConflict)
	if !known {
		return err
	}
	select {
	case v.out <- Finding{object, backup, err}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *verification) run(ctx context.Context) error {
	found, err := v.r.survey(ctx)
	if err != nil {
		return err
	}
	chosen, err := v.choose(found)
	if err != nil {
		return err
	}
	if v.sizes, err = v.r.packs.List(ctx); err != nil {
		return err
	}
	err = v.r.safe.Check(ctx, func(object string, err error) error { return v.judge(ctx, object, "", err) })
	if err != nil {
		return err
	}
	packs := v.inventory(chosen)
	if err := v.packs(ctx, packs); err != nil {
		return err
	}
	for _, s := range chosen {
		if err := v.backup(ctx, s); err != nil {
			return err
		}
	}
	if len(v.opts.IDs) > 0 {
		return nil
	}
	return v.others(ctx)
}

// choose picks the backups asked for.
func (v *verification) choose(found []*surveyed) ([]*surveyed, error) {
	if len(v.opts.IDs) == 0 {
		return slices.DeleteFunc(found, func(s *surveyed) bool { return s.dead }), nil
	}
	var chosen []*surveyed
	for _, id := range v.opts.IDs {
		i := slices.IndexFunc(found, func(s *surveyed) bool { return s.ID == id && !s.pending })
		if i < 0 {
			return nil, ErrNoBackup.WithCause(errors.New(id))
		}
		chosen = append(chosen, found[i])
	}
	return chosen, nil
}

// inventory notes who needs which pack, and returns the packs to look at.
func (v *verification) inventory(chosen []*surveyed) []pack.ID {
	v.users = map[pack.ID][]string{}
	for _, s := range chosen {
		for _, p := range s.Packs {
			v.users[p] = append(v.users[p], s.ID)
		}
	}
	packs := make([]pack.ID, 0, len(v.users))
	for p := range v.users {
		packs = append(packs, p)
	}
	if len(v.opts.IDs) == 0 {
		for p := range v.sizes {
			if v.users[p] == nil {
				packs = append(packs, p)
			}
		}
	}
	slices.SortFunc(packs, pack.Compare)
	for _, p := range packs {
		v.total += v.sizes[p].Size
	}
	return packs
}

// packs reads packs, several at once.
func (v *verification) packs(ctx context.Context, packs []pack.ID) error {
	all := make([][]pack.Blob, len(packs))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(min(max(1, cmp.Or(v.opts.Parallel, 2)), readers))
	for i, p := range packs {
		group.Go(func() error {
			o, there := v.sizes[p]
			var err error
			if there {
				all[i], err = v.r.packs.Check(gctx, p, o.Size, v.opts.Quick)
			} else {
				err = storage.ErrNotFound.WithCause(errors.New("a backup needs it"))
			}
			if v.opts.Progress != nil {
				v.opts.Progress(v.done.Add(o.Size), v.total)
			}
			if storage.Gone(err) {
				return v.judgeLoss(gctx, p.Object(), v.users[p], err)
			}
			return v.judge(gctx, p.Object(), strings.Join(v.users[p], ", "), err)
		})
	}
	err := group.Wait()
	for i, p := range packs {
		if all[i] != nil {
			v.blobs[p] = all[i]
		}
	}
	return err
}

// judgeLoss reports what cannot be read of backups, unless all of them were deleted meanwhile: a deletion takes a
// backup before its packs.
func (v *verification) judgeLoss(ctx context.Context, object string, ids []string, loss error) error {
	for _, id := range ids {
		if _, err := v.r.find(ctx, id); err == nil {
			return v.judge(ctx, object, strings.Join(ids, ", "), loss)
		} else if !errors.Is(err, ErrNoBackup) {
			return err
		}
	}
	return nil
}

// backup checks that everything a backup refers to is where it says.
func (v *verification) backup(ctx context.Context, s *surveyed) error {
	if err := v.judge(ctx, markOf(s.objects[0]), "", s.mark); err != nil {
		return err
	}
	if s.Err != nil {
		return v.judge(ctx, s.objects[0], s.ID, s.Err)
	}
	if err := v.judge(ctx, s.objects[0], s.ID, s.doubt); err != nil {
		return err
	}
	for _, b := range s.Files {
		if err := v.judge(ctx, s.objects[0], s.ID, v.there(b)); err != nil {
			return err
		}
	}
	for f, err := range files.Read(ctx, v.r.packs, s.list()) {
		if err != nil {
			return v.judgeLoss(ctx, s.objects[0], []string{s.ID}, err)
		}
		for b := range f.Blobs() {
			if err := v.there(b); err != nil {
				if err = v.judge(ctx, b.Pack.Object(), s.ID, seal.Damaged(b.Pack.Object(), "%s: %w", f.Path, err)); err != nil {
					return err
				}
				break // one finding for each file
			}
		}
	}
	return nil
}

// there compares a reference with the footer of the pack. A pack that cannot be read has been named already.
func (v *verification) there(b pack.Blob) error {
	blobs, readable := v.blobs[b.Pack]
	if !readable && v.users[b.Pack] != nil {
		return nil
	}
	if int(b.Number) >= len(blobs) || blobs[b.Number] != b {
		return seal.Damaged(b.Pack.Object(), "it has no blob %d as it is referred to", b.Number)
	}
	return nil
}

// others opens every object that is not looked at above.
func (v *verification) others(ctx context.Context) error {
	before := ""
	for o, err := range v.r.st.List(ctx, "") { // in the order of names
		if err != nil {
			return err
		}
		err = v.object(ctx, o)
		if err == nil && logs.SameFile(before, o.Name) {
			err = logs.TwoContents(before, o.Name)
		}
		if err = v.judge(ctx, o.Name, "", err); err != nil {
			return err
		}
		before = o.Name
	}
	return nil
}

func (v *verification) object(ctx context.Context, o storage.Object) error {
	var err error
	top, _, _ := strings.Cut(o.Name, "/")
	switch top {
	case "repo.json", "keys", "epochs", "probes":
	case "packs":
		if _, ok := pack.ParseName(o.Name); !ok {
			return seal.Damaged(o.Name, "it does not belong here")
		}
	case "sessions", "leases":
		if o.Name == ledgerName {
			_, err = v.r.safe.Get(ctx, seal.KindLedger, o.Name)
		} else {
			err = v.r.runs.Check(ctx, o.Name)
		}
	case "intents":
		err = v.r.safe.GetJSON(ctx, seal.KindIntent, o.Name, &intent{})
	case "clusters":
		err = v.ofCluster(ctx, o.Name)
	default:
		return seal.Damaged(o.Name, "it does not belong here")
	}
	if storage.Gone(err) {
		return nil // deleted since it was listed
	}
	return err
}

func (v *verification) ofCluster(ctx context.Context, name string) error {
	if b, ok := parseBackupName(name); ok {
		switch {
		case b.part == manifestObj:
			return nil
		case b.part == pinPart:
			return v.r.safe.GetJSON(ctx, seal.KindPin, name, &pinObject{})
		case strings.HasPrefix(b.part, proofPrefix):
			return v.r.safe.GetJSON(ctx, seal.KindProof, name, &Proof{})
		case b.part == settledPart:
			return v.bereft(ctx, name)
		}
	}
	return v.r.CheckWAL(ctx, name, v.opts.Quick)
}

// bereft looks at a mark without a manifest: that this is lost has been said. A mark that has one was looked at with its backup.
func (v *verification) bereft(ctx context.Context, name string) error {
	_, err := v.r.st.Stat(ctx, strings.TrimSuffix(name, settledPart)+manifestObj)
	if storage.Gone(err) {
		err = v.r.checkMark(ctx, name, seal.Hash{})
	}
	return err
}
