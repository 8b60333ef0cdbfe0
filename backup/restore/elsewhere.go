package restore

import (
	"context"
	"fmt"
	"strconv"

	"rootstream/backup/wal/record"
)

// Elsewhere returns the first tablespace that replaying would make at a place which was not given for it: on a machine
// where the original lives, that is the original's own folder. One that was made while the backup began may be in it and
// in the log; replaying leads its link back to where it was.
func (j *Job) Elsewhere(ctx context.Context) (record.Record, bool, error) {
	spaces, err := j.spaces()
	if err != nil {
		return record.Record{}, false, err
	}
	known := map[uint32]string{}
	for _, s := range spaces {
		known[s.oid] = s.location
	}
	for rec, err := range j.Choice.Replayed(ctx, j.repo) {
		if err != nil {
			return rec, false, fmt.Errorf("look through the log: %w", err)
		}
		if rec.Kind == record.Tablespace && known[rec.OID] != rec.Name {
			return rec, true, nil
		}
	}
	return record.Record{}, false, nil
}

// beside refuses to replay what would make files outside of the target, where something is already.
func (j *Job) beside(ctx context.Context) error {
	rec, found, err := j.Elsewhere(ctx)
	if err != nil || !found {
		return err
	}
	filled, err := holdsAnything(rec.Name + "/" + j.version())
	if err != nil || !filled {
		return err
	}
	return ErrNotEmpty.WithCause(fmt.Errorf("after the backup, at %v, tablespace %s was made at %s, where data is; recovery would write over it",
		rec.Start, strconv.FormatUint(uint64(rec.OID), 10), rec.Name)).
		WithHint("end before it: --target-lsn " + rec.Start.String() + " --exclusive, or restore a later backup")
}
