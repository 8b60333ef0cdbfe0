package api

import "github.com/prometheus/client_golang/prometheus"

// watchCounts is what is counted about watching.
type watchCounts struct{ slow prometheus.Counter }

func (c *watchCounts) register(reg prometheus.Registerer, open func() float64) {
	c.slow = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rootstream_watch_slow_total", Help: "Connections to /v1/watch that were ended because the client was too slow.",
	})
	if reg != nil {
		reg.MustRegister(c.slow, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rootstream_watches", Help: "Open connections to /v1/watch.",
		}, open))
	}
}
