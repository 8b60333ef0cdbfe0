package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/errs"
)

// Finding is something wrong with an object of the repository.
type Finding struct {
	Object  string   `json:"object"`
	Backups []string `json:"backups"` // that are the worse for it
	Problem string   `json:"problem"`
}

// VerifyOptions says what is verified, and how closely.
type VerifyOptions struct {
	IDs      []string                // none: everything the repository has
	Quick    bool                    // that all is there, not what is in it
	Progress func(done, total int64) // bytes; may be nil
	Found    func(Finding)           // is told of each finding as it is made; may be nil
}

// Verify looks at every object that the backups need and returns what is wrong.
// What it found is kept with each backup.
func (m *Manager) Verify(ctx context.Context, o VerifyOptions) ([]Finding, error) {
	ids, err := m.ids(ctx, o.IDs)
	if err != nil {
		return nil, err
	}
	began, findings, bad := time.Now(), []Finding{}, map[string]string{}
	asked := ids
	if len(o.IDs) == 0 {
		asked = nil
	}
	note := func(f Finding) {
		findings = append(findings, f)
		for _, id := range f.Backups {
			if bad[id] == "" {
				bad[id] = f.Object + ": " + f.Problem
			}
		}
		if o.Found != nil {
			o.Found(f)
		}
	}
	for f, err := range m.repo.Verify(ctx, repo.VerifyOptions{IDs: asked, Quick: o.Quick, Progress: o.Progress}) {
		if err != nil {
			return findings, err
		}
		note(Finding{Object: f.Object, Backups: strings.FieldsFunc(f.Backup, func(r rune) bool { return r == ',' || r == ' ' }), Problem: f.Err.Error()})
	}
	gaps, err := m.withoutLog(ctx, ids)
	if err != nil {
		return findings, err
	}
	for _, g := range gaps {
		note(g)
	}
	if o.Quick {
		return findings, nil
	}
	return findings, m.prove(ctx, ids, bad, time.Since(began))
}

// withoutLog finds backups of which the repository lacks log that was written while they were taken: without it they
// are files of many moments, and no cluster.
func (m *Manager) withoutLog(ctx context.Context, ids []string) ([]Finding, error) {
	entries, err := m.repo.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	ledgers := map[uint64]ledger.Ledger{}
	var found []Finding
	for _, e := range entries {
		if !slices.Contains(ids, e.ID) || e.Err != nil || e.Type == Logical {
			continue
		}
		system := e.Cluster.SystemID
		l, known := ledgers[system]
		if !known {
			l, err = ledger.Load(ctx, m.repo, system)
			if errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrWALConflict) {
				continue // named as an object
			}
			if err != nil {
				return found, err
			}
			ledgers[system] = l
		}
		missing := l.Contiguous(wal.Range{Timeline: e.StopTimeline, From: e.StartLSN, To: e.StopLSN})
		if missing == nil {
			continue
		}
		if _, err = m.repo.Manifest(ctx, e.ID); errors.Is(err, repo.ErrNoBackup) {
			continue // deleted meanwhile, with its log
		}
		object := fmt.Sprintf("clusters/%d/wal/%v", system, e.StopTimeline)
		found = append(found, Finding{Object: object, Backups: []string{e.ID}, Problem: missing.Error()})
	}
	return found, nil
}

// ids resolves what people name; nothing named is all that is readable.
func (m *Manager) ids(ctx context.Context, names []string) ([]string, error) {
	entries, err := m.repo.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, name := range names {
		id, err := resolve(entries, name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if len(names) == 0 {
		for _, e := range entries {
			ids = append(ids, e.ID)
		}
	}
	return ids, nil
}

// prove records what verifying has shown.
func (m *Manager) prove(ctx context.Context, ids []string, bad map[string]string, took time.Duration) error {
	now, err := m.repo.Now(ctx)
	if err != nil {
		return fmt.Errorf("record the verification: %w", err)
	}
	for _, id := range ids {
		p := repo.Proof{Kind: ProofVerify, At: now, OK: bad[id] == "", Took: took, Detail: bad[id]}
		if err := m.repo.PutProof(ctx, id, p); err != nil && !errors.Is(err, repo.ErrNoBackup) { // deleted meanwhile
			return fmt.Errorf("record the verification of %s: %w", id, err)
		}
	}
	return nil
}

// Removal is what deleting did, or would do.
type Removal struct {
	Backups  []string  `json:"backups"`
	Verdicts []Verdict `json:"verdicts,omitempty"` // of pruning: on every backup
	Bytes    int64     `json:"bytes"`              // of the repository
	Objects  int       `json:"objects"`
	WALBytes int64     `json:"wal_bytes"` // of them write-ahead log
	WALFiles int       `json:"wal_files"`
	Waiting  []string  `json:"waiting,omitempty"` // runs on account of which data stays until the next time
	DryRun   bool      `json:"dry_run"`
}

func removed(p repo.Report, dry bool) Removal {
	return Removal{
		Backups: append([]string{}, p.Backups...), Bytes: p.Bytes, Objects: p.Objects, WALBytes: p.WALBytes, WALFiles: p.WALFiles,
		Waiting: p.Waiting, DryRun: dry,
	}
}

// Delete removes backups, and what only they need. Others stay whole, also those that share with them.
func (m *Manager) Delete(ctx context.Context, names []string, dry bool) (Removal, error) {
	if len(names) == 0 {
		return Removal{}, errs.NewInvalid("ID", "is required")
	}
	ids := slices.Clone(names)
	for i, name := range names {
		if name != Latest { // a deletion that was killed on its way may have taken it out of the catalog
			continue
		}
		var err error
		if ids[i], err = m.resolve(ctx, name); err != nil {
			return Removal{}, err
		}
	}
	report, err := m.repo.Delete(ctx, ids, dry)
	if errors.Is(err, ErrNoBackup) {
		err = errs.Of(err).WithHint(listHint)
	}
	m.tell(ctx, err, dry)
	return removed(report, dry), err
}

// Prune deletes what is not to be kept any longer, what killed runs left, and the
// write-ahead log that no kept backup needs.
func (m *Manager) Prune(ctx context.Context, dry bool) (Removal, error) {
	now, err := m.repo.Now(ctx)
	if err != nil {
		return Removal{}, err
	}
	var verdicts []Verdict
	report, err := m.repo.Collect(ctx, repo.CollectOptions{
		MinAge: m.cfg.Retention.Unfinished, Dry: dry,
		Choose: func(all []repo.Entry) (ids []string) {
			verdicts = Retain(backupsOf(all), m.cfg.Retention, now)
			for _, v := range verdicts {
				if v.Delete {
					ids = append(ids, v.ID)
				}
			}
			return ids
		},
	})
	done := removed(report, dry)
	done.Verdicts = verdicts
	m.tell(ctx, err, dry)
	return done, err
}

// tell brings backup_history up to date after a deletion.
func (m *Manager) tell(ctx context.Context, err error, dry bool) {
	if err == nil && !dry {
		m.refresh(ctx)
	}
}
