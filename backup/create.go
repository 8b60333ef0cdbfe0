package backup

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/archive/receive"
	"rootstream/backup/base"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/errs"
)

// ErrNoServer is a backup that is to be taken of no server.
var ErrNoServer = errs.New(errs.Invalid, "backup_no_server", "no server to back up is configured").
	WithHint("name it with --dsn (and its folder with --pgdata, if it is on this machine), or set backup.dsn")

// CreateOptions says how a backup is taken.
type CreateOptions struct {
	Type        Type              // empty means full
	Reuse       bool              // a full one does not store again what is there
	Pinned      bool              // keep it until it is unpinned
	Spread      bool              // let the first checkpoint take its time
	Label       string            // for backup_label; empty means the id
	Annotations map[string]string // kept with it
	Workers     int               // 0 means as the manager's configuration says
	Progress    func(Progress)    // called about twice a second; may be nil
}

// Progress is how far taking a backup is.
type Progress = base.Progress

// Create takes a backup. Where nothing else brings the write-ahead log into the
// repository, it brings what the backup needs.
func (m *Manager) Create(ctx context.Context, o CreateOptions) (Backup, error) {
	if m.cfg.DSN.IsZero() {
		return Backup{}, ErrNoServer
	}
	o.Type = cmp.Or(o.Type, Full)
	started, err := m.repo.Now(ctx)
	if err != nil {
		return Backup{}, err
	}
	b, err := m.create(ctx, o)
	if err != nil {
		m.rememberFailure(ctx, o.Type, started, err)
		return Backup{}, err
	}
	m.refresh(ctx)
	return b, nil
}

func (m *Manager) create(ctx context.Context, o CreateOptions) (Backup, error) {
	src, err := m.look(ctx)
	if err != nil {
		return Backup{}, err
	}
	var manifest repo.Manifest
	take := func(ctx context.Context) error {
		manifest, err = base.Take(ctx, m.base(o), m.repo, func(ctx context.Context, size uint32, r wal.Range) error {
			return ledger.Wait(ctx, m.repo, src.system, size, r)
		})
		return err
	}
	if o.Type == Logical || m.archived(ctx, src) {
		err = take(ctx)
	} else {
		err = m.receiving(ctx, take)
	}
	if err != nil {
		return Backup{}, err
	}
	if o.Pinned {
		if err := m.repo.Pin(ctx, manifest.ID); err != nil {
			return Backup{}, fmt.Errorf("pin backup %s, which was taken: %w", manifest.ID, err)
		}
		manifest.Pinned = true
	}
	return backupOf(repo.Entry{Manifest: manifest}), nil
}

func (m *Manager) base(o CreateOptions) base.Config {
	workers := o.Workers
	if workers == 0 {
		workers = m.cfg.Workers
	}
	return base.Config{
		DSN: m.cfg.DSN.Reveal(), PGData: m.cfg.PGData, PrimaryDSN: m.cfg.PrimaryDSN.Reveal(), Type: o.Type, Reuse: o.Reuse, Workers: workers,
		Compression: m.cfg.Compression, Rate: m.cfg.Rate, Spread: o.Spread, Label: o.Label, Annotations: o.Annotations,
		Tool: m.cfg.Tool, Progress: o.Progress, Logger: m.cfg.Logger,
	}
}

// receiving runs fn while a receiver of its own brings the write-ahead log.
func (m *Manager) receiving(ctx context.Context, fn func(context.Context) error) error {
	spool, err := os.MkdirTemp("", "rootstream-spool-")
	if err != nil {
		return fmt.Errorf("make a folder for write-ahead log: %w", err)
	}
	defer os.RemoveAll(spool) //nolint:errcheck // what is needed of it is in the repository
	suffix := make([]byte, 4)
	_, _ = rand.Read(suffix) // never fails
	r, err := receive.New(receive.Config{
		DSN: m.cfg.DSN.Reveal(), Slot: "rootstream_backup_" + hex.EncodeToString(suffix), Temporary: true, Spool: filepath.Join(spool, "wal"),
		Open: func(context.Context) (*repo.Repo, error) { return m.repo, nil }, Logger: m.cfg.Logger,
	})
	if err != nil {
		return err
	}
	done := errors.New("the backup is complete")
	g, run := errgroup.WithContext(ctx)
	g.Go(func() error { return r.Run(run) })
	g.Go(func() error {
		if failed := fn(run); failed != nil {
			return failed
		}
		return done // ends the receiver
	})
	if err = g.Wait(); errors.Is(err, done) {
		return nil
	}
	if last := r.State().LastError; last != "" && err != nil {
		return fmt.Errorf("%w (the write-ahead log: %s)", err, last)
	}
	return err
}
