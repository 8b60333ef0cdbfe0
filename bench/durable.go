package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"rootstream/event"
	"rootstream/statesync"
)

// measureDurable is that part of sync alone.
func measureDurable(ctx context.Context, s *stack) ([]row, error) {
	in, w, err := s.pairUp(ctx, place{DSN: s.dsn, Redis: s.redisURL, Key: s.key})
	if err != nil {
		return nil, err
	}
	rows, err := s.durableRows(ctx, in, w)
	return rows, errors.Join(err, in.stop(), w.kill())
}

func (s *stack) durableRows(ctx context.Context, in *syncInstance, w *watcher) ([]row, error) {
	if _, err := s.propagation(ctx, in, w, 1000, 2*time.Second); err != nil { // the first versions of all entities
		return nil, err
	}
	return s.durableRate(ctx, in, w)
}

// updates are as many as 256 callers get acknowledged.
func updates(in *syncInstance) func(ctx context.Context, d time.Duration) (float64, error) {
	var next atomic.Int64
	return func(ctx context.Context, d time.Duration) (float64, error) {
		return closed(ctx, 256, d, func(ctx context.Context, _ int) error {
			_, failure := in.Update(ctx, entity(durableType, int(next.Add(1))%syncEntities), stamped, statesync.UpdateOptions{})
			return failure
		})
	}
}

// batches are how many commits of the log there were, and how many events they held.
func (in *syncInstance) batches() (n uint64, events float64, err error) {
	families, err := in.reg.Gather()
	for _, f := range families {
		if f.GetName() == "rootstream_event_log_batch_events" {
			h := f.GetMetric()[0].GetHistogram()
			n, events = h.GetSampleCount(), h.GetSampleSum()
		}
	}
	return n, events, err
}

// floorTable is for the floors: what is committed in the log's own, all instances read.
const floorTable = `create table if not exists bench_events (like events including all)`

const (
	madeRows = 256 // of a batch that nobody sends

	floorStart = "\\startpipeline\nbegin;\nselect pg_advisory_xact_lock(7205, %[1]s);\n"
	floorEnd   = "commit;\n\\endpipeline\n"
)

// made inserts a batch of rows that the server makes itself, numbered as the log numbers them.
func made() string {
	return "\\set s random(0, 15)\n" + fmt.Sprintf(floorStart+`insert into bench_events (shard, seq, aggregate_type, aggregate_id, version, name, data, at)
select :s, (select coalesce(max(seq), 0) from bench_events where shard = :s) + g, 'floor', gen_random_uuid(), 1, 'floor.changed',
	'{"patch": {"sent": "1234567890123456789"}}', clock_timestamp() from generate_series(1, %[2]d) g;
`+floorEnd, ":s", madeRows)
}

// sentRows are n rows of each shard in pgbench's variables, as many bytes each as those of [updates].
func sentRows(n int) map[string]string {
	array := func(value func(i int) string) string {
		values := make([]string, n)
		for i := range values {
			values[i] = value(i)
		}
		return "{" + strings.Join(values, ",") + "}"
	}
	vars := map[string]string{
		"types": array(func(int) string { return durableType }),
		"names": array(func(int) string { return durableType + ".changed" }),
		"nth":   array(func(i int) string { return strconv.Itoa(i + 1) }),
		"data":  array(func(i int) string { return fmt.Sprintf(`"{\"patch\":{\"sent\":\"%d\"}}"`, 1234567890123456789+i) }),
	}
	for shard := range event.Shards {
		vars[fmt.Sprintf("ids%d", shard)] = array(func(i int) string { return entity(durableType, shard+event.Shards*i).ID.String() })
	}
	return vars
}

// batchInsert inserts a batch of such rows, each script those of one shard.
func batchInsert() []string {
	scripts := make([]string, event.Shards)
	for shard := range scripts {
		scripts[shard] = fmt.Sprintf(floorStart, strconv.Itoa(shard)) + fmt.Sprintf(`
insert into bench_events (shard, seq, aggregate_type, aggregate_id, version, name, data, at)
select %[1]d, head.seq + r.nth, r.type, r.id, head.seq + r.nth, r.name, r.data::jsonb, clock_timestamp()
from (select coalesce(max(seq), 0) as seq from bench_events where shard = %[1]d) head, (select unnest(:types::text[]) as type,
	unnest(:ids%[1]d::uuid[]) as id, unnest(:nth::bigint[]) as nth, unnest(:names::text[]) as name, unnest(:data::text[]) as data) r;
`, shard) + floorEnd
	}
	return scripts
}

func (s *stack) durableRate(ctx context.Context, in *syncInstance, w *watcher) ([]row, error) {
	if err := s.exec(ctx, floorTable); err != nil {
		return nil, err
	}
	rowsOf, batch := 0, ""
	ours := updates(in)
	measured := func(ctx context.Context, d time.Duration) (float64, error) {
		before, events, err := in.batches()
		if err != nil {
			return 0, err
		}
		rate, err := ours(ctx, d)
		if err != nil {
			return 0, err
		}
		n, all, err := in.batches()
		rowsOf = int((all-events)/float64(max(n-before, 1)) + .5)
		batch = fmt.Sprintf("%d in a commit", rowsOf)
		return rate, err
	}
	sides := []side{
		{rate: measured},
		{rate: func(ctx context.Context, d time.Duration) (float64, error) {
			rate, err := s.pgbenchOf(ctx, batchInsert(), sentRows(rowsOf), d)
			return rate * float64(rowsOf), err
		}, ready: true},
		{rate: func(ctx context.Context, d time.Duration) (float64, error) {
			rate, err := s.pgbench(ctx, made(), d)
			return rate * madeRows, err
		}, ready: true},
	}
	spent := make([]string, len(sides))
	for i := range sides {
		sides[i].rate = s.told(w, &spent[i], sides[i].rate)
	}
	rates, err := alternate(ctx, s, sides...)
	if err != nil {
		return nil, err
	}
	return []row{
		atLeast("durable updates acknowledged", "/s", rates[0], 15_000).with("in the last round: %s, %s", batch, spent[0]),
		compared("durable updates, to rows of a batched insert", rates[0], rates[1], 0.5).with("the floor in its last round: %s", spent[1]),
		compared("the same, to rows that nobody sends", rates[0], rates[2], 0).with("in the last round: %s", spent[2]),
	}, nil
}

// told is rate that tells what each of its calls cost in the last round.
func (s *stack) told(w *watcher, detail *string, rate func(context.Context, time.Duration) (float64, error)) func(context.Context, time.Duration) (float64, error) {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		before, err := s.spent(ctx, w)
		if err != nil {
			return 0, err
		}
		begun := time.Now()
		each, err := rate(ctx, d)
		if err != nil {
			return 0, err
		}
		after, err := s.spent(ctx, w)
		*detail = after.per(each*time.Since(begun).Seconds(), before)
		return each, err
	}
}
