package plan

import (
	"context"
	"fmt"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/errs"
)

// Make chooses from what a repository has of a cluster. A system of 0 means the only one in the repository.
func Make(ctx context.Context, r *repo.Repo, system uint64, t Target) (Choice, error) {
	backups, l, err := Load(ctx, r, system)
	if err != nil {
		return Choice{}, err
	}
	if t, err = locate(ctx, r, t, backups, l); err != nil {
		return Choice{}, err
	}
	return Choose(t, backups, l)
}

// Load reads what planning needs of a cluster's backups and log. A system of 0 means the only one in the repository.
func Load(ctx context.Context, r *repo.Repo, system uint64) ([]Backup, ledger.Ledger, error) {
	catalog, err := r.Catalog(ctx)
	if err != nil {
		return nil, ledger.Ledger{}, err
	}
	systems := map[uint64]bool{}
	for _, e := range catalog {
		systems[e.Cluster.SystemID] = true
	}
	if system == 0 && len(systems) > 1 {
		return nil, ledger.Ledger{}, errs.NewInvalid("system", fmt.Sprintf("is required: the repository holds %d clusters", len(systems)))
	}
	for only := range systems {
		if system == 0 {
			system = only
		}
	}
	var backups []Backup
	size := uint32(wal.DefaultSegmentSize)
	for _, e := range catalog {
		if e.Cluster.SystemID != system || e.Err != nil || e.Type == repo.Logical {
			continue
		}
		size = e.Cluster.SegmentSize
		backups = append(backups, Backup{ID: e.ID, Start: e.StartLSN, Stop: e.StopLSN, Timeline: e.StopTimeline, Completed: e.Completed})
	}
	l, err := ledger.LoadSized(ctx, r, system, size)
	return backups, l, err
}
