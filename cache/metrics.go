package cache

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// op is an operation as the metrics name it.
type op uint8

const (
	opGet op = iota
	opGetMany
	opSet
	opDel
	opExists
	opExpire
	opTTL
	opIncr
	opHash
	opList
	opZSet
	opPublish
	opSubscribe
	opTail
	opTx
	opScript
	opPipeline
	opInfo
	opOther
	opCount
)

func (o op) String() string {
	return [opCount]string{
		"get", "get_many", "set", "del", "exists", "expire", "ttl", "incr", "hash", "list", "zset",
		"publish", "subscribe", "tail", "tx", "script", "pipeline", "info", "other",
	}[o]
}

// metrics holds the counters of one client, resolved once so that a command pays for additions only.
type metrics struct {
	ops           [opCount]opMetrics
	hits, misses  prometheus.Counter
	up            prometheus.Gauge
	invalidations prometheus.Counter
	flushes       prometheus.Counter
	limited       *prometheus.CounterVec
}

type opMetrics struct {
	ok, failed, unavailable prometheus.Counter
	seconds                 prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	ops := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rootstream_cache_operations_total", Help: "Redis operations by result.",
	}, []string{"operation", "result"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rootstream_cache_operation_duration_seconds", Help: "Time until Redis answered.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
	}, []string{"operation"})
	hits := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rootstream_cache_hits_total", Help: "Keys that were read and found.",
	})
	misses := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rootstream_cache_misses_total", Help: "Keys that were read and not found.",
	})
	upGauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rootstream_cache_up", Help: "1 if Redis answered the last probe.",
	})
	invalidations := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rootstream_cache_invalidations_total", Help: "Session views that Redis said have changed.",
	})
	flushes := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rootstream_cache_invalidation_flushes_total", Help: "Times everything near had to be dropped.",
	})
	limited := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rootstream_cache_limiter_decisions_total", Help: "Rate limit decisions by where they were made.",
	}, []string{"source", "result"})

	var err error
	ops = register(reg, ops, &err)
	seconds = register(reg, seconds, &err)
	m := &metrics{
		hits: register(reg, hits, &err), misses: register(reg, misses, &err), up: register(reg, upGauge, &err),
		invalidations: register(reg, invalidations, &err), flushes: register(reg, flushes, &err),
		limited: register(reg, limited, &err),
	}
	if err != nil {
		return nil, err
	}
	for o := range opCount {
		name := o.String()
		m.ops[o] = opMetrics{
			ok: ops.WithLabelValues(name, "ok"), failed: ops.WithLabelValues(name, "error"),
			unavailable: ops.WithLabelValues(name, "unavailable"), seconds: seconds.WithLabelValues(name),
		}
	}
	return m, nil
}

// register registers col, or returns the one that an earlier client has registered.
func register[C prometheus.Collector](reg prometheus.Registerer, col C, err *error) C {
	if reg == nil {
		return col
	}
	e := reg.Register(col)
	if e == nil {
		return col
	}
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](e); ok {
		if have, ok := already.ExistingCollector.(C); ok {
			return have
		}
	}
	*err = errors.Join(*err, fmt.Errorf("register cache metrics: %w", e))
	return col
}

func (m *metrics) setUp(ok bool) {
	if ok {
		m.up.Set(1)
	} else {
		m.up.Set(0)
	}
}

func (m *metrics) found(hit bool) {
	if hit {
		m.hits.Inc()
	} else {
		m.misses.Inc()
	}
}
