package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// tracer times every query by its type, the first word of the statement.
type tracer struct {
	durations *prometheus.HistogramVec
	failures  *prometheus.CounterVec
}

type traceKey struct{}

type trace struct {
	kind  string
	begun time.Time
}

func newTracer(reg prometheus.Registerer) (*tracer, error) {
	t := &tracer{
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rootstream_database_query_seconds", Help: "Time of database queries by type.",
			Buckets: []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30},
		}, []string{"query_type"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rootstream_database_query_failures_total", Help: "Database queries that failed, by type.",
		}, []string{"query_type"}),
	}
	if err := errors.Join(reg.Register(t.durations), reg.Register(t.failures)); err != nil {
		return nil, fmt.Errorf("register the metrics of queries: %w", err)
	}
	return t, nil
}

func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, traceKey{}, trace{queryType(data.SQL), time.Now()})
}

func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	t.end(ctx, data.Err)
}

func (t *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return context.WithValue(ctx, traceKey{}, trace{"batch", time.Now()})
}

func (t *tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (t *tracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	t.end(ctx, data.Err)
}

func (t *tracer) end(ctx context.Context, err error) {
	tr, ok := ctx.Value(traceKey{}).(trace)
	if !ok {
		return
	}
	t.durations.WithLabelValues(tr.kind).Observe(time.Since(tr.begun).Seconds())
	if err != nil {
		t.failures.WithLabelValues(tr.kind).Inc()
	}
}

// queryType is the statement's first word if it is one we count, else "other".
func queryType(sql string) string {
	sql = strings.TrimLeft(sql, " \t\r\n(")
	word := sql
	if i := strings.IndexAny(sql, " \t\r\n;("); i >= 0 {
		word = sql[:i]
	}
	switch w := strings.ToLower(word); w {
	case "select", "insert", "update", "delete", "with", "begin", "commit", "rollback", "copy":
		return w
	default:
		return "other"
	}
}

func registerPool(reg prometheus.Registerer, pool *pgxpool.Pool) error {
	gauge := func(name, help string, read func(*pgxpool.Stat) float64) error {
		return reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return read(pool.Stat()) }))
	}
	err := errors.Join(
		gauge("rootstream_database_connections", "Open connections of the pool.",
			func(s *pgxpool.Stat) float64 { return float64(s.TotalConns()) }),
		gauge("rootstream_database_connections_in_use", "Connections of the pool in use.",
			func(s *pgxpool.Stat) float64 { return float64(s.AcquiredConns()) }),
		gauge("rootstream_database_connections_max", "Size of the pool.",
			func(s *pgxpool.Stat) float64 { return float64(s.MaxConns()) }),
		reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "rootstream_database_pool_waits_total", Help: "Times a caller had to wait for a connection.",
		}, func() float64 { return float64(pool.Stat().EmptyAcquireCount()) })),
	)
	if err != nil {
		return fmt.Errorf("register the metrics of the pool: %w", err)
	}
	return nil
}
