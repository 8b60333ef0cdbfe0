package base

import (
	"context"

	"rootstream/backup/repo"
)

// reuse finds blobs that are stored already by what is in them: those of a run that died, and the parent's.
type reuse struct{ died, parent *repo.Index }

func (k *reuse) resume(ctx context.Context, s *repo.Session) (err error) {
	k.died, err = s.Resumable(ctx)
	return err
}

func (k *reuse) learn(ctx context.Context, s *repo.Session, parent repo.Manifest) (err error) {
	k.parent, err = s.Known(ctx, parent.Packs)
	return err
}

func (k *reuse) find(h repo.Hash) (repo.Blob, bool) {
	if b, found := k.died.Find(h); found {
		return b, true
	}
	return k.parent.Find(h)
}
