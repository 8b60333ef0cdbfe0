package backup

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/backup/schedule"
	"rootstream/internal/wait"
)

// Watch keeps the gauges of a repository up to date.
type Watch struct {
	m     *Manager
	every time.Duration

	mu   sync.Mutex
	seen sight
}

// sight is what was last seen of the repository.
type sight struct {
	ok      bool
	backups []Backup
	windows []Window
	ledger  schedule.Ledger
	now     time.Time
}

// Watch registers the gauges of the repository; [Watch.Run] reads it every so often.
func (m *Manager) Watch(every time.Duration) *Watch {
	w := &Watch{m: m, every: every}
	if m.cfg.Registerer != nil {
		m.cfg.Registerer.MustRegister(w)
	}
	return w
}

// Run looks at the repository until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	for {
		w.look(ctx)
		if wait.For(ctx, w.every) != nil {
			return nil //nolint:nilerr // a wanted stop
		}
	}
}

func (w *Watch) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, max(w.every, time.Minute))
	defer cancel()
	var s sight
	backups, err := w.m.List(ctx)
	if err == nil {
		s.backups = backups
		s.windows, err = w.m.Windows(ctx)
	}
	if err == nil {
		s.ledger, s.now, err = schedule.Read(ctx, w.m.Book())
	}
	if err != nil {
		w.m.log.WarnContext(ctx, "the repository was not looked at", "err", err)
	} else {
		w.m.remember(ctx, backups)
	}
	s.ok = err == nil
	w.mu.Lock()
	defer w.mu.Unlock()
	if !s.ok { // what was known stays known, and goes on ageing
		s.backups, s.windows, s.ledger, s.now = w.seen.backups, w.seen.windows, w.seen.ledger, w.seen.now
	}
	w.seen = s
}

// The gauges.
//
//nolint:gochecknoglobals // constants
var (
	repositoryUp  = desc("repository_up", "Whether the repository could be read at the last look.")
	backupsThere  = desc("backups", "Backups in the repository.", "type", "status")
	lastSuccess   = desc("last_success_timestamp_seconds", "End of the newest intact backup.", "type")
	lastProof     = desc("last_proof_timestamp_seconds", "When a backup was last restored for a test, with success.")
	lastSize      = desc("last_size_bytes", "Size of the cluster in the newest backup.", "type")
	lastStored    = desc("last_stored_bytes", "What the newest backup added to the repository.", "type")
	lastDuration  = desc("last_duration_seconds", "How long the newest backup took.", "type")
	windowBegin   = desc("window_start_timestamp_seconds", "The earliest time the cluster can be restored to.")
	windowEnd     = desc("window_end_timestamp_seconds", "The latest time the cluster can be restored to: what is later is not in the repository yet.")
	windowHoles   = desc("window_gaps", "Gaps in the write-ahead log between the earliest and the latest time.")
	jobSuccess    = desc("job_last_success_timestamp_seconds", "End of the last success of a job of the schedule.", "job", "kind")
	jobFailures   = desc("job_failures", "Failures of a job since its last planned time.", "job", "kind")
	jobUnderway   = desc("job_running", "Whether a job runs now.", "job", "kind")
	alertsPending = desc("job_alerting", "Whether people were told that a job failed or is overdue.", "job", "kind")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("rootstream_backup_"+name, help, labels, nil)
}

// Describe names the gauges.
func (w *Watch) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(w, ch) }

// Collect shows what was last seen.
func (w *Watch) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	s := w.seen
	w.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(repositoryUp, truth(s.ok))
	s.collectBackups(gauge)
	if n := len(s.windows); n > 0 {
		gauge(windowBegin, seconds(s.windows[0].Since))
		gauge(windowEnd, seconds(s.windows[n-1].Until))
		gauge(windowHoles, float64(n-1))
	}
	for name, r := range s.ledger.Jobs {
		kind := string(r.Kind)
		if !r.Success.IsZero() {
			gauge(jobSuccess, seconds(r.Success), name, kind)
		}
		gauge(jobFailures, float64(r.Failures), name, kind)
		gauge(alertsPending, truth(r.Told.Problem != ""), name, kind)
		gauge(jobUnderway, truth(s.ledger.Claim != nil && s.ledger.Claim.Job == name), name, kind)
	}
}

func (s sight) collectBackups(gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	type group struct{ kind, status string }
	count, newest := map[group]int{}, map[Type]bool{}
	var proof time.Time
	for _, b := range s.backups { // newest first
		count[group{string(b.Type), b.Status}]++
		if b.Status == StatusCompleted && !newest[b.Type] {
			newest[b.Type] = true
			kind := string(b.Type)
			gauge(lastSuccess, seconds(b.CompletedAt), kind)
			gauge(lastSize, float64(b.SizeBytes), kind)
			gauge(lastStored, float64(b.StoredBytes), kind)
			gauge(lastDuration, b.CompletedAt.Sub(b.StartedAt).Seconds(), kind)
		}
		if b.proven() && b.Proof.At.After(proof) {
			proof = b.Proof.At
		}
	}
	for g, n := range count {
		gauge(backupsThere, float64(n), g.kind, g.status)
	}
	if !proof.IsZero() {
		gauge(lastProof, seconds(proof))
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
