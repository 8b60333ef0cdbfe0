package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"rootstream/event"
)

// The floors of durable updates: batches of rows that pgbench inserts into a table with the log's columns and indexes.

// floorTable is theirs: what is committed in the log's own, all instances read.
const floorTable = `create table if not exists bench_events (like events including all)`

const (
	madeRows = 256 // of a batch that nobody sends
	// maxPrepared is how many rows pgbench can send as parameters: it has 255, two for each row and three for all.
	maxPrepared = (255 - 3) / 2
	// plainRows is how many rows a plain statement inserts at a time: of 200 each takes longer to read.
	plainRows = 100

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
		"data":  array(func(i int) string { return strconv.Quote(sentData(i)) }),
	}
	for shard := range event.Shards {
		vars[fmt.Sprintf("ids%d", shard)] = array(func(i int) string { return entity(durableType, shard+event.Shards*i).ID.String() })
	}
	return vars
}

func sentData(i int) string { return fmt.Sprintf(`{"patch":{"sent":"%d"}}`, 1234567890123456789+i) }

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

// plainStart numbers n rows in the client, which shares its numbers with no other: nothing is locked or looked for.
const plainStart = `\set base :base + %d
\set s :client_id %% 16
\set n :client_id * 10000000000000000 + :base
`

// plainVars are where the numbers of a run begin: after those of all before.
func plainVars() map[string]string {
	return map[string]string{"base": fmt.Sprint(time.Now().UnixMicro())}
}

// plainInsert is the statement that comes to mind first, all of it sent and read each time.
func plainInsert(n int) string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf("(:s, :n + %[1]d, '%[2]s', '%[3]s', :n + %[1]d, '%[2]s.changed', '%[4]s')",
			i, durableType, entity(durableType, i).ID, sentData(i))
	}
	return fmt.Sprintf(plainStart, n) +
		"insert into bench_events (shard, seq, aggregate_type, aggregate_id, version, name, data) values\n" + strings.Join(rows, ",\n") + ";\n"
}

// preparedInsert is that as a prepared statement: what differs from row to row is sent.
func preparedInsert(n int) (script string, vars map[string]string) {
	vars = plainVars()
	rows := make([]string, n)
	for i := range rows {
		vars[fmt.Sprintf("id%d", i)], vars[fmt.Sprintf("data%d", i)] = entity(durableType, i).ID.String(), sentData(i)
		rows[i] = fmt.Sprintf("(%[1]d, :id%[1]d::uuid, :data%[1]d::jsonb)", i)
	}
	return fmt.Sprintf(plainStart, n) + fmt.Sprintf(`insert into bench_events (shard, seq, aggregate_type, aggregate_id, version, name, data)
select :s::smallint, :n::bigint + nth, '%[1]s', id, :n::bigint + nth, '%[1]s.changed', data from (values
`, durableType) + strings.Join(rows, ",\n") + ") r (nth, id, data);\n", vars
}

// floors are what durable updates are compared to; rowsOf says how many the log has in a commit.
func (s *stack) floors(rowsOf *int) []side {
	rows := func(n int, rate rating) side {
		return side{ready: true, rate: func(ctx context.Context, d time.Duration) (float64, error) {
			batches, err := rate(ctx, d)
			return batches * float64(n), err
		}}
	}
	return []side{
		rows(plainRows, func(ctx context.Context, d time.Duration) (float64, error) {
			return s.pgbenchOf(ctx, simple, []string{plainInsert(plainRows)}, plainVars(), d)
		}),
		rows(maxPrepared, func(ctx context.Context, d time.Duration) (float64, error) {
			script, vars := preparedInsert(maxPrepared)
			return s.pgbenchOf(ctx, prepared, []string{script}, vars, d)
		}),
		{ready: true, rate: func(ctx context.Context, d time.Duration) (float64, error) {
			batches, err := s.pgbenchOf(ctx, prepared, batchInsert(), sentRows(*rowsOf), d)
			return batches * float64(*rowsOf), err
		}},
		rows(madeRows, func(ctx context.Context, d time.Duration) (float64, error) { return s.pgbench(ctx, made(), d) }),
	}
}
