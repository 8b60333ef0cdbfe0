package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"rootstream/backup/schedule"
	"rootstream/errs"
)

// ErrFindings is a check that found something wrong.
var ErrFindings = errs.New(errs.Internal, "backup_findings", "something in the repository is wrong")

// Plan says what runs by itself.
type Plan struct {
	Jobs        []schedule.Job
	Alerts      Alerts
	Look        time.Duration // between looks at the ledger; 0 means 15s
	TestRestore func(ctx context.Context) (Proof, error)
}

// Scheduler returns what runs the plan's jobs, once among all processes that use the repository.
func (m *Manager) Scheduler(p Plan) (*schedule.Scheduler, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name this process: %w", err)
	}
	return schedule.New(schedule.Config{
		Jobs: p.Jobs, Book: m.Book(), Owner: host + "/" + strconv.Itoa(os.Getpid()) + "/" + strconv.FormatInt(time.Now().UnixNano(), 36),
		Run:   func(ctx context.Context, k schedule.Kind) (string, error) { return m.run(ctx, k, p) },
		Empty: m.empty, Alert: p.Alerts.Tell, Look: p.Look, Logger: m.cfg.Logger,
	})
}

// empty reports that there is no backup of the cluster yet.
func (m *Manager) empty(ctx context.Context) (bool, error) {
	_, err := m.resolve(ctx, Latest)
	if errors.Is(err, ErrNoBackup) {
		return true, nil
	}
	return false, err
}

// run does what a job does.
func (m *Manager) run(ctx context.Context, k schedule.Kind, p Plan) (string, error) {
	switch k {
	case schedule.Full, schedule.Differential, schedule.Incremental, schedule.Logical:
		b, err := m.Create(ctx, CreateOptions{Type: Type(k)})
		return b.ID, err
	case schedule.Verify:
		findings, err := m.Verify(ctx, VerifyOptions{})
		if err == nil && len(findings) > 0 {
			err = ErrFindings.WithCause(fmt.Errorf("%d, the first: %s: %s", len(findings), findings[0].Object, findings[0].Problem))
		}
		return "", err
	case schedule.TestRestore:
		proof, err := p.TestRestore(ctx)
		if err == nil && !proof.OK {
			err = ErrFindings.WithCause(errors.New("the newest backup could not be restored: " + proof.Detail))
		}
		return "", err
	case schedule.Prune:
		_, err := m.Prune(ctx, false)
		return "", err
	}
	return "", errs.NewInvalid("kind", "is not known: "+string(k))
}

// RunNow asks that something runs as soon as a process that runs the schedule looks.
func (m *Manager) RunNow(ctx context.Context, kind, by string) error {
	return schedule.RunNow(ctx, m.Book(), schedule.Kind(kind), by)
}
