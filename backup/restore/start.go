package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"rootstream/backup/restore/recovery"
	"rootstream/pgserver"
)

// findServer finds binaries of the backup's version.
func (j *Job) findServer() error {
	major := j.Manifest.Cluster.Major
	in := j.Config.Installation
	if in.BinDir == "" {
		all := pgserver.Installations()
		i := slices.IndexFunc(all, func(in pgserver.Installation) bool { return in.Major == major })
		if i < 0 {
			return ErrVersion.WithCause(fmt.Errorf("PostgreSQL %d is not installed", major)).
				WithHint("restore without --start, or install that version")
		}
		in = all[i]
	}
	if in.Major != major {
		return ErrVersion.WithCause(fmt.Errorf("%s is PostgreSQL %d, the backup is of %d", in.BinDir, in.Major, major))
	}
	if j.Account.UID == 0 {
		return ErrOwner.WithCause(errors.New("PostgreSQL does not run as root")).WithHint("name its user with --owner")
	}
	j.Config.Installation = in
	return nil
}

// start starts the restored cluster with its own settings and sees it through recovery.
func (j *Job) start(ctx context.Context) (running bool, err error) {
	j.Report("recovery", 0)
	server, err := pgserver.New(pgserver.Config{
		Installation: j.Config.Installation, DataDir: j.Config.Dir, RunAs: j.Account.Name, LogFile: j.Config.LogFile, Foreign: true, Logger: j.Config.Logger,
	})
	if err != nil {
		return false, err
	}
	return recovery.Run(ctx, server, j.Config.Target.Action)
}
