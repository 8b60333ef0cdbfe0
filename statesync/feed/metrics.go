package feed

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counters count what happened since the start.
type counters struct {
	local, redis, postgres    atomic.Int64 // events handed on, by where they came from
	published, failed, read   atomic.Int64 // frames
	bad, stale, drift         atomic.Int64 // ignored: forged, repeated or of another epoch, from a clock too far ahead
	dropped                   atomic.Int64 // events not published for want of room
	resets, orphans, diverged atomic.Int64
}

func (c *counters) each(visit func(name string, n *atomic.Int64)) {
	visit("events_local", &c.local)
	visit("events_redis", &c.redis)
	visit("events_postgres", &c.postgres)
	visit("frames_published", &c.published)
	visit("frames_failed", &c.failed)
	visit("frames_read", &c.read)
	visit("frames_forged", &c.bad)
	visit("frames_stale", &c.stale)
	visit("clock_drift", &c.drift)
	visit("events_unpublished", &c.dropped)
	visit("resets", &c.resets)
	visit("orphans", &c.orphans)
	visit("diverged", &c.diverged)
}

func (c *counters) all() map[string]int64 {
	m := map[string]int64{}
	c.each(func(name string, n *atomic.Int64) { m[name] = n.Load() })
	return m
}

func (f *Feed) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	var err error
	f.counters.each(func(name string, n *atomic.Int64) {
		err = errors.Join(err, reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "rootstream_sync_" + name + "_total", Help: "What the feed of the event log did: " + name + ".",
		}, func() float64 { return float64(n.Load()) })))
	})
	for name, value := range map[string]func() float64{
		"behind":  func() float64 { return float64(f.Status().Behind) },
		"epoch":   func() float64 { return float64(f.epoch.Load()) },
		"suspect": func() float64 { return number(f.Suspect()) },
		"alone":   func() float64 { return number(f.Alone()) },
		"peers":   func() float64 { return float64(len(f.Status().Peers)) },
	} {
		err = errors.Join(err, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rootstream_sync_" + name, Help: "State of the feed of the event log: " + name + ".",
		}, value)))
	}
	if err != nil {
		return fmt.Errorf("register the feed's metrics: %w", err)
	}
	return nil
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
