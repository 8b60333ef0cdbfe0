package backups

import (
	"context"
	"time"

	"rootstream/backup"
	"rootstream/backup/schedule"
)

// Scheduler is what runs the configured schedule.
func (b *Operator) Scheduler() (*schedule.Scheduler, error) {
	jobs, err := b.config.Backup.Jobs()
	if err != nil {
		return nil, err
	}
	alerts, err := b.alerts()
	if err != nil {
		return nil, err
	}
	return b.Manager.Scheduler(backup.Plan{Jobs: jobs, Alerts: alerts, TestRestore: func(ctx context.Context) (backup.Proof, error) {
		return b.Recovery(nil).TestRestore(ctx, backup.TestRestoreOptions{Planted: b.config.Backup.Receive})
	}})
}

// ScheduledJob is a job of the schedule, and how it stands.
type ScheduledJob struct {
	Name        string        `json:"name"`
	Kind        schedule.Kind `json:"kind"`
	Next        time.Time     `json:"next,omitzero"` // zero: it runs when it is asked for again
	LastSuccess *time.Time    `json:"last_success"`
	LastRun     *time.Time    `json:"last_run"`
	Error       string        `json:"error,omitempty"` // of the last run
	Running     bool          `json:"running"`
	Problem     string        `json:"problem,omitempty"` // that people were told of
}

// Schedule lists the jobs of the configuration and what the repository knows of them.
func (b *Operator) Schedule(ctx context.Context) ([]ScheduledJob, error) {
	jobs, err := b.config.Backup.Jobs()
	if err != nil {
		return nil, err
	}
	ledger, now, err := schedule.Read(ctx, b.Book())
	if err != nil {
		return nil, err
	}
	rows := make([]ScheduledJob, 0, len(jobs))
	for _, j := range jobs {
		row := scheduled(ledger, j)
		row.Next = j.Cron.Next(now)
		rows = append(rows, row)
	}
	for _, kind := range schedule.Kinds() { // what people asked for between the planned runs
		row := scheduled(ledger, schedule.Job{Kind: kind})
		ask, waits := ledger.Asked[kind]
		if row.Next = ask.At; waits || row.Running || row.LastRun != nil {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// scheduled is what the ledger knows of a job.
func scheduled(l schedule.Ledger, j schedule.Job) ScheduledJob {
	r := l.Jobs[j.Name()]
	row := ScheduledJob{
		Name: j.Name(), Kind: j.Kind, Error: r.Error, Problem: string(r.Told.Problem),
		Running: l.Claim != nil && l.Claim.Job == j.Name(),
	}
	if !r.Success.IsZero() {
		row.LastSuccess = &r.Success
	}
	if !r.Ended.IsZero() {
		row.LastRun = &r.Ended
	}
	return row
}
