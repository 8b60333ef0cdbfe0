package session

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lagged measures how long revocations take from being made to being heard of here.
type lagged struct {
	mu      sync.Mutex
	sum     float64
	count   uint64
	buckets map[float64]uint64
}

var lagBounds = [...]float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5} //nolint:gochecknoglobals // a constant table

func (l *lagged) note(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buckets == nil {
		l.buckets = map[float64]uint64{}
	}
	d = max(d, 0)
	l.sum += d.Seconds()
	l.count++
	for _, b := range lagBounds {
		if d.Seconds() <= b {
			l.buckets[b]++
		}
	}
}

// collector shows a Manager's counts to Prometheus, when it asks.
type collector struct {
	m    *Manager
	lag  *prometheus.Desc
	read []metric
}

type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	get  func() float64
}

func newCollector(m *Manager) *collector {
	name := func(s string) string { return "rootstream_session_" + s }
	c := &collector{m: m, lag: prometheus.NewDesc(name("revocation_lag_seconds"),
		"Time from a revocation in the database to its being known in this process.", nil, nil)}
	count := func(s, help string, get func() uint64) {
		c.read = append(c.read, metric{
			prometheus.NewDesc(name(s), help, nil, nil), prometheus.CounterValue, func() float64 { return float64(get()) },
		})
	}
	gauge := func(s, help string, get func() float64) {
		c.read = append(c.read, metric{prometheus.NewDesc(name(s), help, nil, nil), prometheus.GaugeValue, get})
	}
	count("near_hits_total", "Validations answered in the process.", func() uint64 { return m.near.Stats().Hits })
	count("near_misses_total", "Validations not answered in the process.", func() uint64 { return m.near.Stats().Misses })
	count("near_evictions_total", "Views put out of the process for room.", func() uint64 { return m.near.Stats().Evicted })
	count("near_refusals_total", "Views not kept since something was invalidated while they were read.",
		func() uint64 { return m.near.Stats().Refused })
	gauge("near_entries", "Views kept in the process.", func() float64 { return float64(m.near.Stats().Entries) })
	count("redis_hits_total", "Views taken from Redis.", m.shared.hits.Load)
	count("redis_misses_total", "Views that Redis did not have, or too old.", m.shared.misses.Load)
	count("redis_forged_total", "Views in Redis that we did not write.", m.shared.forged.Load)
	count("redis_fills_total", "Views offered to Redis.", m.shared.filled.Load)
	count("redis_tombstones_total", "Tombstones set in Redis.", m.shared.buried.Load)
	count("database_loads_total", "Views read from PostgreSQL.", m.counts.dbLoads.Load)
	count("created_total", "Sessions created here.", m.counts.created.Load)
	count("revoked_total", "Sessions revoked here.", m.counts.revoked.Load)
	count("blind_refusals_total", "Validations refused since revocations could not be read.", m.counts.refusedBlind.Load)
	count("poll_failures_total", "Failed readings of the invalidations.", m.counts.pollFailures.Load)
	gauge("poll_age_seconds", "Age of what is known of revocations; -1 before the first reading.", m.pollAge)
	gauge("marks", "Tokens known to have ended or changed lately.", func() float64 { return float64(m.marks.len()) })
	return c
}

func (m *Manager) pollAge() float64 {
	polled := m.clock.polled.Load()
	if polled == 0 {
		return -1
	}
	return time.Duration(m.clock.mono() - polled).Seconds()
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	out <- c.lag
	for _, r := range c.read {
		out <- r.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(out chan<- prometheus.Metric) {
	l := &c.m.feed.lag
	l.mu.Lock()
	buckets := make(map[float64]uint64, len(lagBounds))
	for _, b := range lagBounds {
		buckets[b] = l.buckets[b]
	}
	out <- prometheus.MustNewConstHistogram(c.lag, l.count, l.sum, buckets)
	l.mu.Unlock()
	for _, r := range c.read {
		out <- prometheus.MustNewConstMetric(r.desc, r.kind, r.get())
	}
}
