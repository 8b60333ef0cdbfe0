package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"rootstream/backup/repo/files"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/run"
	"rootstream/backup/repo/seal"
)

// Commit makes the backup exist. The manifest is written, then the record of the
// run, which nobody who declared it dead leaves possible, says that it counts.
// Whatever goes wrong before that, there is no backup. The mark says so for good.
func (s *Session) Commit(ctx context.Context, m *Manifest) error {
	if s.over {
		return run.ErrEnded
	}
	err := s.drain()
	var sum seal.Hash
	if err == nil {
		sum, err = s.commit(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("commit backup %s: %w", m.ID, errors.Join(err, s.Abort(ctx)))
	}
	s.finish()
	if err = s.conclude(ctx, m.object(), sum); err != nil { // the record says committed: that is as good, and the next prune does it
		s.r.cfg.Logger.WarnContext(ctx, "a run that is over could not be concluded", "err", err)
	}
	return nil
}

// commit returns the sum of the manifest that counts.
func (s *Session) commit(ctx context.Context, m *Manifest) (sum seal.Hash, err error) {
	m.Run, m.Stored = s.run.ID(), s.Stored() // all packs have arrived
	if err = m.check(); err != nil {
		return sum, ErrInvalid.WithCause(err)
	}
	if s.info.System != 0 && s.info.System != m.Cluster.SystemID {
		return sum, ErrOtherCluster.WithCause(fmt.Errorf("the run is for system %d, the backup of %d", s.info.System, m.Cluster.SystemID))
	}
	if err = s.MayBegin(m); err != nil {
		return sum, err
	}
	if err = s.r.packsThere(ctx, m.Packs, s.packs.Sent()); err != nil {
		return sum, err
	}
	name := m.object()
	plain, err := json.Marshal(m)
	if err != nil {
		return sum, err
	}
	body, err := s.r.safe.Seal(seal.KindManifest, name, plain)
	if err != nil {
		return sum, err
	}
	if err = s.run.Commit(ctx, name); err != nil {
		return sum, err
	}
	err = s.r.st.Put(ctx, name, body)
	if err == nil {
		err = s.settle(ctx, m)
	}
	if err != nil {
		return sum, errors.Join(err, s.withdraw(ctx, name))
	}
	return s.r.NewHasher().Sum(plain), nil
}

// settle looks at the manifest as everybody will see it, and at deletions that began meanwhile.
func (s *Session) settle(ctx context.Context, m *Manifest) error {
	intents, err := s.r.intents(ctx)
	if err != nil {
		return err
	}
	for _, in := range intents {
		for _, p := range in.Packs {
			if _, needed := slices.BinarySearchFunc(m.Packs, p, pack.Compare); needed {
				return ErrWithdrawn.WithCause(fmt.Errorf("deletion %s takes pack %v", in.ID, p))
			}
		}
	}
	if err := s.r.readBack(ctx, m); err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	return s.run.Committed(ctx)
}

// withdraw takes the manifest back. If that fails, the session keeps saying that it does not count.
func (s *Session) withdraw(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.r.cfg.LeaseTTL)
	defer cancel()
	if err := s.run.Withdraw(ctx); err != nil {
		return err
	}
	return s.r.retract(ctx, name)
}

// readBack reads a manifest and its list of files, which must need exactly the packs that it names.
func (r *Repo) readBack(ctx context.Context, want *Manifest) error {
	m, _, err := r.manifest(ctx, want.object())
	if err != nil {
		return err
	}
	unneeded, needed := len(m.Packs), make([]bool, len(m.Packs))
	for id, err := range r.neededPacks(ctx, m) {
		if err != nil {
			return err
		}
		i, named := slices.BinarySearchFunc(m.Packs, id, pack.Compare)
		if !named {
			return ErrInvalid.WithCause(fmt.Errorf("its files need pack %v, which it does not name", id))
		}
		if !needed[i] {
			needed[i] = true
			unneeded--
		}
	}
	if unneeded > 0 {
		return ErrInvalid.WithCause(fmt.Errorf("it names %d packs that its files do not need", unneeded))
	}
	return nil
}

// neededPacks goes through the packs that a backup's files are in, mostly once each.
func (r *Repo) neededPacks(ctx context.Context, m Manifest) iter.Seq2[pack.ID, error] {
	return func(yield func(pack.ID, error) bool) {
		for _, b := range m.Files {
			if !yield(b.Pack, nil) {
				return
			}
		}
		var last pack.ID
		for f, err := range files.Read(ctx, r.packs, m.list()) {
			if err != nil {
				yield(last, err)
				return
			}
			for b := range f.Blobs() {
				if b.Pack != last && !yield(b.Pack, nil) {
					return
				}
				last = b.Pack
			}
		}
	}
}

// packsThere looks for packs; those just written must have the size they were written with.
func (r *Repo) packsThere(ctx context.Context, packs []pack.ID, sizes map[pack.ID]int64) error {
	there := make([]bool, len(packs))
	for o, err := range r.st.List(ctx, pack.Prefix) {
		if err != nil {
			return fmt.Errorf("list packs: %w", err)
		}
		id, _ := pack.ParseName(o.Name)
		i, needed := slices.BinarySearchFunc(packs, id, pack.Compare)
		if !needed {
			continue
		}
		there[i] = true
		if want, mine := sizes[id]; mine && want != o.Size {
			return seal.Damaged(o.Name, "it has %d bytes (%d were written)", o.Size, want)
		}
	}
	if i := slices.Index(there, false); i >= 0 {
		return seal.Damaged(packs[i].Object(), "it is not there")
	}
	return nil
}
