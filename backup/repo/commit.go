package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"rootstream/backup/repo/files"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/run"
	"rootstream/backup/repo/seal"
)

// Commit makes the backup exist. The manifest is written last but one; the last
// write, which nobody who declared the run dead leaves possible, says that it
// counts. Whatever goes wrong before that, there is no backup.
func (s *Session) Commit(ctx context.Context, m *Manifest) error {
	if s.over {
		return run.ErrEnded
	}
	err := s.drain()
	if err == nil {
		err = s.commit(ctx, m)
	}
	if err == nil {
		s.finish()
		if err = s.run.Forget(context.WithoutCancel(ctx)); err != nil { // it says committed: that is as good
			s.r.cfg.Logger.WarnContext(ctx, "a session that is over could not be removed", "err", err)
		}
		return nil
	}
	return fmt.Errorf("commit backup %s: %w", m.ID, errors.Join(err, s.Abort(ctx)))
}

func (s *Session) commit(ctx context.Context, m *Manifest) error {
	m.Run, m.Stored = s.run.ID(), s.Stored() // all packs have arrived
	if err := m.check(); err != nil {
		return ErrInvalid.WithCause(err)
	}
	if s.info.System != 0 && s.info.System != m.Cluster.SystemID {
		return ErrOtherCluster.WithCause(fmt.Errorf("the run is for system %d, the backup of %d", s.info.System, m.Cluster.SystemID))
	}
	if err := s.r.packsThere(ctx, m.Packs, s.packs.Sent()); err != nil {
		return err
	}
	name := m.object()
	plain, err := json.Marshal(m)
	if err != nil {
		return err
	}
	body, err := s.r.safe.Seal(seal.KindManifest, name, plain)
	if err != nil {
		return err
	}
	if err = s.run.Commit(ctx, name); err != nil {
		return err
	}
	err = s.r.st.Put(ctx, name, body)
	if err == nil {
		err = s.settle(ctx, m)
	}
	if err != nil {
		return errors.Join(err, s.withdraw(ctx, name))
	}
	return nil
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
	return s.r.st.Delete(ctx, name)
}

// readBack reads a manifest and its list of files, which must need exactly the packs that it names.
func (r *Repo) readBack(ctx context.Context, want *Manifest) error {
	m, err := r.manifest(ctx, want.object())
	if err != nil {
		return err
	}
	needed, err := r.neededPacks(ctx, m)
	if err != nil {
		return err
	}
	if !slices.Equal(slices.SortedFunc(maps.Keys(needed), pack.Compare), m.Packs) {
		return ErrInvalid.WithCause(fmt.Errorf("its files need %d packs, it names %d", len(needed), len(m.Packs)))
	}
	return nil
}

// neededPacks collects the packs that a backup's files are in.
func (r *Repo) neededPacks(ctx context.Context, m Manifest) (map[pack.ID]bool, error) {
	needed := map[pack.ID]bool{}
	for _, b := range m.Files {
		needed[b.Pack] = true
	}
	for f, err := range files.Read(ctx, r.packs, m.list()) {
		if err != nil {
			return nil, err
		}
		for b := range f.Blobs() {
			needed[b.Pack] = true
		}
	}
	return needed, nil
}

// packsThere looks for packs; those just written must have the size they were written with.
func (r *Repo) packsThere(ctx context.Context, packs []pack.ID, sizes map[pack.ID]int64) error {
	there, err := r.packs.List(ctx)
	if err != nil {
		return err
	}
	for _, id := range packs {
		o, found := there[id]
		if want, mine := sizes[id]; !found || mine && want != o.Size {
			return seal.Damaged(id.Object(), "it has %d bytes (%d were written)", o.Size, want)
		}
	}
	return nil
}
