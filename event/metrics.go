package event

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are the metrics of a Log.
type counts struct {
	batch, seconds               prometheus.Histogram
	conflicts, repeats, believed prometheus.Counter
}

// newCounts registers the metrics with reg, if there is one.
func newCounts(reg prometheus.Registerer, waiting, due func() int) (*counts, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	c := &counts{
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rootstream_event_log_batch_events", Help: "Events that were committed together.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 1000},
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rootstream_event_log_commit_seconds", Help: "Time of one run of a batch.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30},
		}),
		conflicts: counter("rootstream_event_log_conflicts_total", "Units refused because of the version they expected."),
		repeats:   counter("rootstream_event_log_repeats_total", "Units whose idempotency key was there: answered with the original."),
		believed:  counter("rootstream_event_log_believed_total", "Events whose entity's version was known, so that it was not looked up."),
	}
	if reg == nil {
		return c, nil
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	err := errors.Join(reg.Register(c.batch), reg.Register(c.seconds), reg.Register(c.conflicts), reg.Register(c.repeats), reg.Register(c.believed),
		reg.Register(gauge("rootstream_event_log_waiting", "Units that wait to be committed.", waiting)),
		reg.Register(gauge("rootstream_event_log_snapshots_due", "Entities whose state is to be kept.", due)))
	if err != nil {
		return nil, fmt.Errorf("register the metrics of the event log: %w", err)
	}
	return c, nil
}
