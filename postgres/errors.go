package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/errs"
)

// ErrNoRows is returned where exactly one row was asked for and none was found.
var ErrNoRows = pgx.ErrNoRows

// Violates reports whether err is the violation of the named constraint or unique index.
func Violates(err error, constraint string) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pe.ConstraintName == constraint && strings.HasPrefix(pe.Code, "23")
}

// UniqueViolation reports whether err is the violation of any unique constraint of table.
func UniqueViolation(err error, table string) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pe.Code == "23505" && pe.TableName == table
}

// classify gives faults of the connection or the server a kind; other errors stay as they are.
func classify(err error) error {
	if err == nil || errs.Of(err) != nil {
		return err
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return classifyState(pe, err)
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	if errors.Is(err, context.Canceled) && !connecting { // of a connection that the pool makes the caller cancels nothing
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return ErrBusy.WithCause(err).WithRetryAfter(time.Second)
	}
	_, network := errors.AsType[net.Error](err)
	gone := errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone)
	if connecting || network || gone || pgconn.SafeToRetry(err) || isBroken(err) {
		return ErrUnavailable.WithCause(err).WithRetryAfter(time.Second)
	}
	return err
}

// classifyState reads the SQLSTATE: PostgreSQL manual, appendix A.
func classifyState(pe *pgconn.PgError, err error) error {
	switch {
	case pe.Code == "25006":
		return ErrReadOnly.WithCause(err).WithRetryAfter(time.Second)
	case pe.Code == "57014", pe.Code == "55P03", pe.Code == "25P03":
		return ErrBusy.WithCause(err).WithRetryAfter(time.Second)
	case strings.HasPrefix(pe.Code, "57P"), strings.HasPrefix(pe.Code, "08"):
		return ErrUnavailable.WithCause(err).WithRetryAfter(time.Second)
	case strings.HasPrefix(pe.Code, "53"):
		return ErrFull.WithCause(err).WithRetryAfter(2 * time.Second)
	case pe.Code == "22P05", pe.Code == "22021":
		return ErrText.WithCause(err)
	case strings.HasPrefix(pe.Code, "28"), pe.Code == "3D000": // password, pg_hba.conf, no such database
		return ErrUnavailable.WithCause(err).WithRetryAfter(5 * time.Second).WithHint(pe.Message)
	}
	return err
}

// isBroken recognises the connection errors that pgx and the standard library give no type.
func isBroken(err error) bool {
	s := err.Error()
	return strings.Contains(s, "unexpected EOF") || strings.Contains(s, "conn closed") ||
		strings.Contains(s, "connection reset") || strings.Contains(s, "broken pipe") ||
		strings.Contains(s, "closed pool")
}

// lostRace reports whether a transaction may succeed if it simply runs again.
func lostRace(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pe.Code == "40001" || pe.Code == "40P01")
}

// rolledBack reports whether a failed commit certainly stored nothing. A server
// that is shutting down (57P…) may have stored it before it said so.
func rolledBack(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return errors.Is(err, pgx.ErrTxCommitRollback) ||
		ok && !strings.HasPrefix(pe.Code, "57P") && !strings.HasPrefix(pe.Code, "08")
}

// redactDSN keeps the reason of a parse error and drops the address, which may hold a password.
func redactDSN(err error) error {
	if pe, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		if cause := errors.Unwrap(pe); cause != nil {
			return errors.New("check its form, for example postgres://user@host:5432/name")
		}
		return errors.New("cannot parse it")
	}
	return err
}
