package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rootstream/backup/pgdata"
	"rootstream/internal/wait"
	"rootstream/pgserver"
)

const lookEvery = 50 * time.Millisecond

// findServer finds binaries of the backup's version.
func (j *job) findServer() error {
	major := j.manifest.Cluster.Major
	in := j.cfg.Installation
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
	if j.account.UID == 0 {
		return ErrOwner.WithCause(errors.New("PostgreSQL does not run as root")).WithHint("name its user with --owner")
	}
	j.cfg.Installation = in
	return nil
}

// start starts the restored cluster with its own settings and waits until it is where the target wants it. It returns
// no server if that is a server shut down.
func (j *job) start(ctx context.Context) (*pgserver.Server, error) {
	j.report("recovery", 0)
	server, err := pgserver.New(pgserver.Config{
		Installation: j.cfg.Installation, DataDir: j.cfg.Dir, RunAs: j.account.Name, LogFile: j.cfg.LogFile, Foreign: true, Logger: j.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	if err = server.Start(ctx); err == nil {
		err = arrive(ctx, server, j.cfg.Target.Action)
	}
	switch {
	case err == nil && j.cfg.Target.Action != Shutdown:
		return server, j.forgetRecovery()
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case j.cfg.Target.Action == Shutdown:
		if control, _, unread := pgdata.ReadControl(j.cfg.Dir); unread == nil && control.State == pgdata.ShutDownInRecovery {
			return nil, nil
		}
	}
	return nil, verdict(err)
}

// arrive waits until a started server has done what it does at its target. A paused one is waited for until it is
// consistent and takes queries.
func arrive(ctx context.Context, server *pgserver.Server, action Action) error {
	for {
		// A server in recovery that takes queries calls itself ready, too.
		control, _, err := pgdata.ReadControl(server.DataDir())
		if err == nil && (action == Pause || control.State == pgdata.InProduction) {
			return nil
		}
		select {
		case <-server.Done():
			return fmt.Errorf("the server ended: %w", errors.Join(server.Err(), errors.New(server.Said())))
		default:
		}
		if err := wait.For(ctx, lookEvery); err != nil {
			return err
		}
	}
}

// verdict turns what PostgreSQL said into what it means for the target.
func verdict(err error) error {
	if err == nil {
		return ErrRecovery.WithCause(errors.New("the server neither stopped nor went on"))
	}
	for _, said := range []string{
		"recovery ended before configured recovery target was reached",
		"requested recovery stop point is before consistent recovery point",
	} {
		if strings.Contains(err.Error(), said) {
			return ErrReach.WithCause(err)
		}
	}
	if errors.Is(err, pgserver.ErrPortTaken) {
		return ErrAddress.WithCause(err).
			WithHint("run the same with --delta and an address of its own: --set port=5433 --set unix_socket_directories=/tmp")
	}
	return ErrRecovery.WithCause(err).WithHint("mend what PostgreSQL says above, then run the same with --delta; --set NAME=VALUE changes a setting")
}

// forgetRecovery takes the target out of the configuration again: a standby made of this folder would obey it too.
func (j *job) forgetRecovery() error {
	if j.cfg.Target.Action != Promote {
		return nil
	}
	name := filepath.Join(j.cfg.Dir, autoConf)
	auto, err := j.account.ReadFile(name)
	if err != nil {
		return ErrTarget.WithCause(err)
	}
	if err = j.account.WriteFile(name, string(withoutRecovery(auto, nil)), !j.cfg.NoSync); err != nil {
		return ErrTarget.WithCause(err)
	}
	return nil
}
