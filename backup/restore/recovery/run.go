package recovery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"rootstream/backup/pgdata"
	"rootstream/backup/restore/plan"
	"rootstream/errs"
	"rootstream/internal/wait"
	"rootstream/pgserver"
)

// Why a recovery does not end well.
var (
	ErrReach    = errs.New(errs.Precondition, "restore_unreached", "recovery did not reach its target")
	ErrAddress  = errs.New(errs.Conflict, "restore_address", "the files are restored, but the server cannot have the address it is configured for")
	ErrRecovery = errs.New(errs.Internal, "restore_recovery", "PostgreSQL did not recover from the backup")
)

const lookEvery = 50 * time.Millisecond

// Run starts the server of a restored folder and waits until it has done what it does at its target. It reports
// whether the server runs now: at a target of shutdown it does not.
func Run(ctx context.Context, server *pgserver.Server, action plan.Action) (running bool, err error) {
	if err = server.Start(ctx); err == nil {
		err = arrive(ctx, server, action)
	}
	switch {
	case err == nil && action != plan.Shutdown:
		return true, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	case action == plan.Shutdown:
		if control, _, unread := pgdata.ReadControl(server.DataDir()); unread == nil && control.State == pgdata.ShutDownInRecovery {
			return false, nil
		}
	}
	return false, verdict(err)
}

// arrive waits until a started server has done what it does at its target. A paused one is waited for until it is
// consistent and takes queries.
func arrive(ctx context.Context, server *pgserver.Server, action plan.Action) error {
	for {
		// A server in recovery that takes queries calls itself ready, too.
		control, _, err := pgdata.ReadControl(server.DataDir())
		if err == nil && (action == plan.Pause || control.State == pgdata.InProduction) {
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
