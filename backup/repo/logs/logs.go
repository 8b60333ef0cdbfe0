package logs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/errs"
)

// What can go wrong with a log.
var (
	ErrOtherCluster = errs.New(errs.Conflict, "other_cluster", "the repository belongs to another cluster")
	ErrWALConflict  = errs.New(errs.Conflict, "wal_conflict", "the repository has other content under that name")
	ErrWALAbsent    = errs.New(errs.NotFound, "wal_absent", "the repository has no such file")
)

// Store keeps the logs of clusters. It is safe for concurrent use.
type Store struct {
	safe       *seal.Safe
	st         storage.Storage
	newCluster bool
	log        *slog.Logger
	systems    sync.Map // uint64: clusters that may write here
}

// NewStore returns the logs of a repository; newCluster lets a cluster in though the repository belongs to another.
func NewStore(safe *seal.Safe, newCluster bool, log *slog.Logger) *Store {
	return &Store{safe: safe, st: safe.Storage(), newCluster: newCluster, log: log}
}

const clusters = "clusters/"

// Prefix is what the names of all objects of a cluster begin with.
func Prefix(system uint64) string { return clusters + strconv.FormatUint(system, 10) + "/" }

// Systems returns the clusters that the repository has something of.
func (s *Store) Systems(ctx context.Context) ([]uint64, error) {
	folders, err := s.st.Folders(ctx, clusters)
	if err != nil {
		return nil, err
	}
	var systems []uint64
	for _, f := range folders {
		if id, err := strconv.ParseUint(f, 10, 64); err == nil {
			systems = append(systems, id)
		}
	}
	return systems, nil
}

// Admit refuses a cluster if the repository belongs to another one.
func (s *Store) Admit(ctx context.Context, system uint64) error {
	if _, known := s.systems.Load(system); known || system == 0 {
		return nil
	}
	all, err := s.Systems(ctx)
	if err != nil {
		return err
	}
	if len(all) > 0 && !slices.Contains(all, system) && !s.newCluster {
		return ErrOtherCluster.WithCause(fmt.Errorf("it has system %d, this is system %d", all[0], system)).
			WithHint("use another repository; after pg_upgrade, let the new cluster in with --new-cluster")
	}
	s.systems.Store(system, true)
	return nil
}
