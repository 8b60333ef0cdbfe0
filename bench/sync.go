package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"rootstream/event"
	"rootstream/internal/wait"
	"rootstream/statesync"
)

const syncNote = `
Two processes, each with a statesync.Manager as serve has it; this one writes, the other subscribes to everything and notes
how long ago each change was made (both read the clock of the same machine). Updates arrive on a clock, whatever the
answers take, and go to 2,000 entities in turn; each is acknowledged once PostgreSQL has it on disk. Durable throughput is
that of 2,000 callers, each of whom updates an entity of its own and so fills the log's batches, as pgbench's 20 clients with a
batch each do theirs; 256 callers are beside it. A short turn leaves snapshots of entities for after it; a long one without a
pause does not. Before each turn of anybody the tables are vacuumed, there is a checkpoint, and a moment does not count:
neither the pages that are then written to the log whole nor an autovacuum burden a round by chance.
Every floor is pgbench -f, 20 clients, on a table with the columns, keys and indexes of the log, which the instances do not
follow, with rows as wide as those of the updates. The batched insert that is judged is the one that comes to mind first:
INSERT ... VALUES of 100 rows (of 200 each takes longer to read), sent and read as text each time. From values is a prepared
INSERT of as many rows as pgbench's 255 parameters can send. Both number their rows in the client, and lock and look for
nothing. The strict one is the hardest we know, and held to the same 0.5: as many rows at a time as the log really had in a
commit, sent as arrays to one prepared statement, which locks the shard and numbers them as the log does. The last floor sends
nothing: its rows are made where they are stored, each of an entity of its own. No floor checks an entity's version, answers
for each row, makes a document of it, or tells anybody; as what is written is the same, the ratio to the strict floor is that
of what a row costs all who share the two cores, which the lines below the table say. Of the writer's share a third is making,
comparing and keeping documents; the rest is waking callers, sending batches, telling subscribers and collecting garbage.
Volatile updates are 2 goroutines setting contributions of 10,000 entities.
What earlier measurements left is done with before: rows vacuumed, pages written, their tokens gone from the memory of this process.`

const syncEntities = 2000

// pairUp starts the other process and makes an instance here.
func (s *stack) pairUp(ctx context.Context, at place) (in *syncInstance, w *watcher, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	where, err := json.Marshal(at)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self) //nolint:gosec // this program
	cmd.Env = append(os.Environ(), watcherEnv+"="+string(where))
	cmd.Stderr = s.stderr
	c, err := startChild(ctx, cmd, watcherLine)
	if err != nil {
		return nil, nil, err
	}
	w = &watcher{child: c, url: "http://" + c.line[len(watcherLine):]}
	if in, err = at.instance(ctx); err != nil {
		return nil, nil, errors.Join(err, c.kill())
	}
	return in, w, nil
}

// watcher is the other process.
type watcher struct {
	*child
	url string
}

// take returns the delays it has noted since the last time.
func (w *watcher) take(ctx context.Context) ([]time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil) //nolint:gosec // a child of ours
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(req) //nolint:gosec // as above
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return nil, err
	}
	took := make([]time.Duration, len(body)/8)
	return took, binary.Read(bytes.NewReader(body), binary.LittleEndian, took)
}

// all takes until n delays have come, or no more do.
func (w *watcher) all(ctx context.Context, n int) ([]time.Duration, error) {
	var all []time.Duration
	for end := time.Now().Add(patience); len(all) < n && time.Now().Before(end); {
		took, err := w.take(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, took...)
		if err := wait.For(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if len(all) < n {
		return nil, fmt.Errorf("%d of %d changes came to the other process", len(all), n)
	}
	return sorted(all), nil
}

// stamped sets the time of sending.
func stamped(d *statesync.Doc) error {
	if d.Data == nil {
		d.Data = map[string]any{}
	}
	d.Data["sent"] = strconv.FormatInt(time.Now().UnixNano(), 10)
	return nil
}

// span is for how long updates arrive on a clock.
func (s *stack) span() time.Duration {
	return time.Duration(s.scale.openFor / 3 * float64(time.Second))
}

// propagation measures from the moment an update was due to the moment it was told in the other process.
func (s *stack) propagation(ctx context.Context, in *syncInstance, w *watcher, perSecond float64, span time.Duration) ([]time.Duration, error) {
	if _, err := w.take(ctx); err != nil {
		return nil, err
	}
	took, err := open(ctx, perSecond, span, func(ctx context.Context, i int) error {
		_, failure := in.Update(ctx, entity(durableType, i%syncEntities), stamped, statesync.UpdateOptions{})
		return failure
	})
	if err != nil {
		return nil, err
	}
	return w.all(ctx, len(took))
}

func measureSync(ctx context.Context, s *stack) ([]row, error) {
	defer s.lighten()()
	if err := s.exec(ctx, "vacuum (analyze)", "checkpoint"); err != nil {
		return nil, err
	}
	in, w, err := s.pairUp(ctx, place{DSN: s.dsn, Redis: s.redisURL, Key: s.key})
	if err != nil {
		return nil, err
	}
	rows, err := s.syncRows(ctx, in, w)
	if err = errors.Join(err, in.stop(), w.kill()); err != nil {
		return nil, err
	}
	if in, w, err = s.pairUp(ctx, place{DSN: s.dsn, Key: s.key}); err != nil {
		return nil, err
	}
	cold, err := s.propagation(ctx, in, w, 1000, s.span())
	if err != nil {
		return nil, errors.Join(err, in.stop(), w.kill())
	}
	alone, err := s.propagation(ctx, in, w, 1000, s.span())
	if err = errors.Join(err, in.stop(), w.kill()); err != nil {
		return nil, err
	}
	return append(rows,
		latency("seen by the other process, 1,000 updates/s, without Redis", alone, 100),
		about("the same right after its start, p99", "ms", millis(quantile(cold, .99))).
			with("p50 %.2f ms: the first update of each entity reads its state from PostgreSQL", millis(quantile(cold, .5))),
	), nil
}

func latency(what string, sorted []time.Duration, most float64) row {
	return atMost(what+", p99", "ms", []float64{millis(quantile(sorted, .99))}, most).
		with("p50 %.2f ms, p99.9 %.1f ms of %s", millis(quantile(sorted, .5)), millis(quantile(sorted, .999)), number(float64(len(sorted))))
}

func (s *stack) syncRows(ctx context.Context, in *syncInstance, w *watcher) ([]row, error) {
	if _, err := s.propagation(ctx, in, w, 1000, s.span()); err != nil { // the first versions of all entities, in memory from here on
		return nil, err
	}
	disk, err := s.syncs(ctx, s.span()/4)
	if err != nil {
		return nil, err
	}
	rows := []row{about("one page written and synced before, p99", "ms", millis(quantile(disk, .99))).
		with("p50 %.2f ms, max %.1f ms of %s: what the disk lets nobody undercut", millis(quantile(disk, .5)), millis(disk[len(disk)-1]), number(float64(len(disk))))}
	for _, at := range []clocked{{5000, 10, 3}, {10_000, 30, 0}} {
		seen, err := s.seen(ctx, in, w, at)
		if err != nil {
			return nil, fmt.Errorf("%.0f updates a second: %w", at.perSecond, err)
		}
		rows = append(rows, seen...)
	}
	durable := func(ctx context.Context, in *syncInstance) ([]row, error) { return s.durableRate(ctx, in, w) }
	for _, part := range []func(context.Context, *syncInstance) ([]row, error){durable, s.heldSnapshot, s.volatileRate, s.replay} {
		more, err := part(ctx, in)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// clocked is how much arrives, and how many ms it may take to be seen; 0 means no target.
type clocked struct{ perSecond, p99, p50 float64 }

// seen measures propagation in rounds: what the machine does beside falls into some of them.
func (s *stack) seen(ctx context.Context, in *syncInstance, w *watcher, at clocked) ([]row, error) {
	before, err := s.cost(w)
	if err != nil {
		return nil, err
	}
	var p99s, p50s []float64
	var all []time.Duration
	for range s.scale.rounds {
		took, failed := s.propagation(ctx, in, w, at.perSecond, s.span()/2)
		if failed != nil {
			return nil, failed
		}
		p99s, p50s = append(p99s, millis(quantile(took, .99))), append(p50s, millis(quantile(took, .5)))
		all = append(all, took...)
	}
	after, err := s.cost(w)
	if err != nil {
		return nil, err
	}
	slices.Sort(all)
	what := "seen by the other process, " + number(at.perSecond) + " updates/s, "
	rows := []row{atMost(what+"p99", "ms", p99s, at.p99).with("of all %s: p99 %.2f ms, p99.9 %.1f ms; %s", number(float64(len(all))),
		millis(quantile(all, .99)), millis(quantile(all, .999)), after.per(float64(len(all)), before))}
	if at.p50 == 0 {
		return append(rows, about(what+"p50", "ms", p50s...)), nil
	}
	return append(rows, atMost(what+"p50", "ms", p50s, at.p50)), nil
}

// heldSnapshot writes while another connection holds a snapshot, as a dump does.
func (s *stack) heldSnapshot(ctx context.Context, in *syncInstance) ([]row, error) {
	end, err := s.holdSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	rates, err := s.updateRates(ctx, in)
	if err != nil {
		return nil, err
	}
	return []row{atLeast("durable updates beside a snapshot that is held open", "/s", rates, 15_000)}, nil
}

func (s *stack) volatileRate(ctx context.Context, in *syncInstance) ([]row, error) {
	var rates []float64
	for range s.scale.rounds {
		var next atomic.Int64
		rate, err := closed(ctx, 2, s.round(), func(context.Context, int) error {
			n := next.Add(1)
			return in.SetVolatile(entity(volatileType, int(n)%10_000), map[string]any{"viewers": n})
		})
		if err != nil {
			return nil, err
		}
		rates = append(rates, rate)
	}
	for i := range 10_000 {
		in.DropVolatile(entity(volatileType, i))
	}
	return []row{atLeast("volatile updates", "/s", rates, 100_000)}, nil
}

// replay reads the whole log, and one entity with ten thousand events.
func (s *stack) replay(ctx context.Context, in *syncInstance) ([]row, error) {
	ref, long := entity(durableType, syncEntities), 10_000
	if s.scale.name != "full" {
		long = 1000
	}
	for i := range long {
		_, err := in.Update(ctx, ref, func(d *statesync.Doc) error {
			d.Data = map[string]any{"n": i, "text": "the state of an entity that changes often"}
			return nil
		}, statesync.UpdateOptions{})
		if err != nil {
			return nil, err
		}
	}
	store := event.NewStore(in.db)
	n, begun := 0, time.Now()
	for shard := range event.Shards {
		for after := int64(0); ; {
			page, err := store.Shard(ctx, shard, after, 1000)
			if err != nil {
				return nil, err
			}
			if len(page) == 0 {
				break
			}
			n, after = n+len(page), page[len(page)-1].Seq
		}
	}
	rate := float64(n) / time.Since(begun).Seconds()
	var took []time.Duration
	for range 100 {
		begun = time.Now()
		if _, err := store.State(ctx, ref, event.At{}); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	return []row{
		atLeast("replay from the log", "events/s", []float64{rate}, 200_000).with("%s events", number(float64(n))),
		atMost("state of an entity with "+number(float64(long))+" events, median", "ms", []float64{millis(quantile(took, .5))}, 5),
	}, nil
}
