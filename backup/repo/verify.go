package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

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
			v := &verification{r: r, opts: opts, out: findings, blobs: map[PackID][]Blob{}}
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
	blobs map[PackID][]Blob // of packs whose footer can be read
	users map[PackID][]string
	sizes map[PackID]storage.Object
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
	if v.sizes, err = v.r.packSizes(ctx); err != nil {
		return err
	}
	if err := v.keys(ctx); err != nil {
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
		return found, nil
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
func (v *verification) inventory(chosen []*surveyed) []PackID {
	v.users = map[PackID][]string{}
	for _, s := range chosen {
		for _, p := range s.Packs {
			v.users[p] = append(v.users[p], s.ID)
		}
	}
	packs := make([]PackID, 0, len(v.users))
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
	slices.SortFunc(packs, comparePacks)
	for _, p := range packs {
		v.total += v.sizes[p].Size
	}
	return packs
}

// keys looks at what opens the repository.
func (v *verification) keys(ctx context.Context) error {
	root, err := readRoot(ctx, v.r.st)
	if err == nil {
		var mac []byte
		if mac, err = v.r.ring.rootMAC(root); err == nil && !bytes.Equal(mac, root.MAC) {
			err = damaged(rootName, "%w", errAuth)
		}
	}
	if errors.Is(err, ErrNoRepository) {
		err = damaged(rootName, "%w", err)
	}
	if err = v.judge(ctx, rootName, "", err); err != nil {
		return err
	}
	for o, err := range v.r.st.List(ctx, "keys/") {
		if err != nil {
			return err
		}
		body, err := v.r.st.Get(ctx, o.Name, 0, min(o.Size, maxKeyObject+1))
		if isGone(err) {
			continue
		}
		if err == nil {
			err = v.r.checkKey(o.Name, body)
		}
		if err = v.judge(ctx, o.Name, "", err); err != nil {
			return err
		}
	}
	for o, err := range v.r.st.List(ctx, "epochs/") {
		if err != nil {
			return err
		}
		if err := v.judge(ctx, o.Name, "", v.r.loadEpoch(ctx, o.Name)); err != nil {
			return err
		}
	}
	return nil
}

// checkKey reads a key object, and opens it if we have its key.
func (r *Repo) checkKey(name string, body []byte) error {
	o, err := parseKeyObject(name, body)
	if err != nil || o.Repository != r.ring.id {
		return err
	}
	for _, key := range r.keys {
		root, err := o.unwrap(key)
		if err != nil {
			return err
		}
		if root != nil && !bytes.Equal(root, r.ring.root) {
			return damaged(name, "it opens another repository")
		}
	}
	return nil
}

// packs reads packs, several at once.
func (v *verification) packs(ctx context.Context, packs []PackID) error {
	all := make([][]Blob, len(packs))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(min(max(1, cmp.Or(v.opts.Parallel, 2)), readers))
	for i, p := range packs {
		group.Go(func() error {
			o, there := v.sizes[p]
			var err error
			if there {
				all[i], err = v.pack(gctx, p, o.Size)
			} else {
				err = storage.ErrNotFound.WithCause(errors.New("a backup needs it"))
			}
			if v.opts.Progress != nil {
				v.opts.Progress(v.done.Add(o.Size), v.total)
			}
			if isGone(err) {
				if needed, fault := v.needed(gctx, v.users[p]); fault != nil || !needed {
					return fault // it was deleted meanwhile
				}
			}
			return v.judge(gctx, p.object(), strings.Join(v.users[p], ", "), err)
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

// needed reports whether one of some backups is there still. A deletion takes a backup before its packs.
func (v *verification) needed(ctx context.Context, ids []string) (bool, error) {
	for _, id := range ids {
		if _, err := v.r.find(ctx, id); !errors.Is(err, ErrNoBackup) {
			return true, err
		}
	}
	return false, nil
}

// pack reads a pack, or its footer, and returns its blobs.
func (v *verification) pack(ctx context.Context, id PackID, size int64) ([]Blob, error) {
	entries, err := v.r.footer(ctx, id, size)
	if err != nil {
		return nil, err
	}
	blobs := make([]Blob, len(entries))
	for i, e := range entries {
		blobs[i] = e.Blob
	}
	if v.opts.Quick {
		return blobs, nil
	}
	data, err := v.r.st.Get(ctx, id.object(), 0, size)
	if err != nil {
		return blobs, err
	}
	s, err := v.r.ring.sealer(id)
	if err != nil {
		return blobs, err
	}
	var plain []byte
	for _, b := range blobs {
		if plain, err = v.r.open(s, b, data[b.Offset:b.Offset+b.Stored], plain[:0]); err != nil {
			return blobs, err
		}
	}
	return blobs, nil
}

// backup checks that everything a backup refers to is where it says.
func (v *verification) backup(ctx context.Context, s *surveyed) error {
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
	for f, err := range v.r.Files(ctx, s.Manifest) {
		if err != nil {
			if needed, fault := v.needed(ctx, []string{s.ID}); fault != nil || !needed {
				return fault
			}
			return v.judge(ctx, s.objects[0], s.ID, err)
		}
		for b := range f.blobs() {
			if err := v.there(b); err != nil {
				if err = v.judge(ctx, b.Pack.object(), s.ID, damaged(b.Pack.object(), "%s: %w", f.Path, err)); err != nil {
					return err
				}
				break // one finding for each file
			}
		}
	}
	return nil
}

// there compares a reference with the footer of the pack. A pack that cannot be read has been named already.
func (v *verification) there(b Blob) error {
	blobs, readable := v.blobs[b.Pack]
	if !readable && v.users[b.Pack] != nil {
		return nil
	}
	if int(b.Number) >= len(blobs) || blobs[b.Number] != b {
		return damaged(b.Pack.object(), "it has no blob %d as it is referred to", b.Number)
	}
	return nil
}

// others opens every object that is not looked at above.
func (v *verification) others(ctx context.Context) error {
	for o, err := range v.r.st.List(ctx, "") {
		if err != nil {
			return err
		}
		if err := v.judge(ctx, o.Name, "", v.object(ctx, o)); err != nil {
			return err
		}
	}
	return nil
}

func (v *verification) object(ctx context.Context, o storage.Object) error {
	var err error
	top, _, _ := strings.Cut(o.Name, "/")
	switch top {
	case rootName, "keys", "epochs":
	case "packs":
		if _, ok := parsePackName(o.Name); !ok {
			return damaged(o.Name, "it does not belong here")
		}
	case "sessions":
		_, _, err = v.r.session(ctx, o.Name)
	case "leases":
		err = v.r.getJSON(ctx, kindLease, o.Name, &leaseObject{})
	case "intents":
		err = v.r.getJSON(ctx, kindIntent, o.Name, &intent{})
	case "clusters":
		err = v.ofCluster(ctx, o.Name)
	default:
		return damaged(o.Name, "it does not belong here")
	}
	if isGone(err) {
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
			return v.r.getJSON(ctx, kindPin, name, &pinObject{})
		case strings.HasPrefix(b.part, proofPrefix):
			return v.r.getJSON(ctx, kindProof, name, &Proof{})
		}
	}
	f := strings.Split(name, "/")
	switch {
	case len(f) == 5 && f[2] == "wal":
		return v.log(ctx, kindWAL, name, f[4])
	case len(f) == 6 && f[2] == "pieces":
		return v.log(ctx, kindPiece, name, f[5])
	}
	return damaged(name, "it does not belong here")
}

// log reads a file or a piece of the log, whose name ends with the hash of its content.
func (v *verification) log(ctx context.Context, k kind, name, part string) error {
	if _, ok := parseWALObject(part); k == kindWAL && !ok {
		return damaged(name, "it does not belong here")
	}
	if v.opts.Quick {
		return nil
	}
	data, err := v.r.get(ctx, k, name)
	if err == nil && !strings.HasSuffix(part, "-"+v.r.NewHasher().Sum(data).String()) {
		err = damaged(name, "it holds something else")
	}
	return err
}
