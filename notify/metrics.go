package notify

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	sent, failed, abandoned *prometheus.CounterVec
	waiting, oldest         *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"channel"})
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"channel"})
	}
	m := &metrics{
		sent:      counter("rootstream_notify_sent_total", "Messages that were sent."),
		failed:    counter("rootstream_notify_failed_total", "Tries to send a message that failed."),
		abandoned: counter("rootstream_notify_abandoned_total", "Messages that were given up."),
		waiting:   gauge("rootstream_notify_pending", "Messages that wait to be sent."),
		oldest:    gauge("rootstream_notify_oldest_pending_seconds", "Age of the message that has waited longest."),
	}
	for _, ch := range []Channel{ChannelMail, ChannelWebhook} {
		m.sent.WithLabelValues(string(ch))
		m.failed.WithLabelValues(string(ch))
		m.abandoned.WithLabelValues(string(ch))
	}
	m.pending(nil)
	if reg == nil {
		return m, nil
	}
	var faults []error
	for _, c := range []prometheus.Collector{m.sent, m.failed, m.abandoned, m.waiting, m.oldest} {
		faults = append(faults, reg.Register(c))
	}
	return m, errors.Join(faults...)
}

func (m *metrics) pending(stats []PendingStat) {
	for _, ch := range []Channel{ChannelMail, ChannelWebhook} {
		m.waiting.WithLabelValues(string(ch)).Set(0)
		m.oldest.WithLabelValues(string(ch)).Set(0)
	}
	for _, p := range stats {
		m.waiting.WithLabelValues(string(p.Channel)).Set(float64(p.Count))
		m.oldest.WithLabelValues(string(p.Channel)).Set(p.Oldest.Seconds())
	}
}
