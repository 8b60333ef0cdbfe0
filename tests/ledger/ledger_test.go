package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/event"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
	"rootstream/tests/harness"
)

const (
	broken      = 15 * time.Second // of a round
	longBroken  = 45 * time.Second // of one in a soak
	healsWithin = 20 * time.Second // every instance works again by itself once nothing is broken any more
	pulseWithin = 30 * time.Second // a clock that was ahead is believed again once time has caught up, which takes 10 s
	atLeast     = 45 * time.Second
)

// TestNoUpdateIsLostWhateverBreaks is the promise of state sync.
func TestNoUpdateIsLostWhateverBreaks(t *testing.T) {
	t.Parallel()
	run(t, one, atLeast, 1)
}

// TestNoUpdateIsLostWhateverBreaksOfSentinels has Redis lose its newest frames in failovers.
func TestNoUpdateIsLostWhateverBreaksOfSentinels(t *testing.T) {
	t.Parallel()
	run(t, sentinel, 0, 6)
}

// TestNoUpdateIsLostWhateverBreaksOfACluster has Redis lose one part of it and keep the others.
func TestNoUpdateIsLostWhateverBreaksOfACluster(t *testing.T) {
	t.Parallel()
	run(t, clustered, 0, 6)
}

// run goes on for at least a time, and in a soak for a part of it.
func run(t *testing.T, redis func(*testing.T) topology, least time.Duration, part time.Duration) {
	t.Helper()
	seed := harness.Seed(t)
	soak := harness.Soak(t, 0) / part
	longest, length := 10*time.Second, broken
	if soak > 0 {
		longest, length = 30*time.Second, longBroken
	}
	w := newWorld(t, seed, redis(t))
	defer w.report()
	schedules, life := rand.New(rand.NewPCG(seed, 0)), w.lifeFaults(longest)
	servers := w.storeFaults()
	for begun := time.Now(); ; {
		w.round(harness.Schedule(schedules, length, servers, w.lineFault, life, w.clockFault))
		over := time.Since(begun) > max(least, soak) && (w.snapshots() > 0 || w.rounds >= 8) // a busy machine writes less
		if t.Failed() || len(w.faults) > 0 || over {
			break
		}
	}
	w.verify()
}

// world is some instances, and who writes and watches.
type world struct {
	*ledger
	t      *testing.T
	pg     *postgrestest.Instance
	redis  topology
	nodes  []*node
	db     *postgres.DB // past all proxies
	seed   uint64
	diced  uint64
	rounds int
	pulses []event.Ref
	healed []time.Duration
	agreed []time.Duration
	pulsed []time.Duration
}

func newWorld(t *testing.T, seed uint64, redis topology) *world {
	t.Helper()
	w := &world{t: t, seed: seed, redis: redis, ledger: &ledger{began: time.Now(), counts: map[string]int{}}}
	w.pg = postgrestest.Server(t, "max_connections=400")
	w.db = postgrestest.Open(t, postgres.Config{DSN: w.pg.DSN()})
	dice, more := w.roll(), 4
	if redis.single == nil {
		more = 2 // Redis takes its part of the machine
	}
	for i := range 2 + dice.IntN(more) {
		n := &node{Lines: harness.NewLines(t, w.pg, redis.single), name: fmt.Sprintf("instance %d", i)}
		n.file = filepath.Join(t.TempDir(), "orders.json")
		n.env = []string{
			envDSN + "=" + harness.Through(t, w.pg.DSN(), n.ToPostgres), redis.env(t, n), envOrder + "=" + n.file,
			envCache + "=" + strconv.Itoa([]int{0, 16 << 10}[i%2]), // every second one cannot keep all in memory
		}
		w.start(n)
		w.nodes = append(w.nodes, n)
	}
	t.Logf("%d instances", len(w.nodes))
	return w
}

// storeFaults are those of the servers.
func (w *world) storeFaults() harness.Track {
	if w.redis.single != nil {
		servers := harness.Servers(w.pg, w.redis.single)
		return deck(servers, servers, servers, servers, w.redis.fault, w.held)
	}
	return deck(w.redis.fault, w.redis.fault, w.redis.fault, harness.Postgres(w.pg))
}

// start gives an instance a life.
func (w *world) start(n *node) {
	w.t.Helper()
	n.run = harness.Start(w.t, n.name, nil, n.env)
	url := n.run.Ready()
	n.says.begin()
	n.url.Store(&url)
}

// roll makes dice for one goroutine.
func (w *world) roll() *rand.Rand {
	w.diced++
	return rand.New(rand.NewPCG(w.seed, w.diced))
}

func (w *world) anywhere(dice *rand.Rand) *node { return w.nodes[dice.IntN(len(w.nodes))] }

// hold opens a transaction that has seen and written something, until it is told to end.
func (w *world) hold() (end func()) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, w.pg.DSN())
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = c.Exec(ctx, `begin isolation level repeatable read; select max(seq) from events; select pg_current_xact_id()`)
	if err != nil {
		w.t.Fatal(err)
	}
	return func() { _ = c.Close(context.Background()) }
}

// round is writing and watching while everything breaks, and then everything must be as if nothing had.
func (w *world) round(steps []harness.Step) {
	w.rounds++
	w.t.Logf("round %d:%s", w.rounds, harness.Print(steps))
	w.entries = nil
	var refs []event.Ref
	for range 12 {
		refs = append(refs, newRef("loose"), newRef("held"), newRef("merged"))
	}
	w.pulses = nil
	for range 5 {
		w.pulses = append(w.pulses, newRef("pulse"))
	}
	writing, stopWriting := context.WithCancel(w.t.Context())
	watching, stopWatching := context.WithCancel(w.t.Context())
	var writers, others sync.WaitGroup
	defer func() { stopWriting(); stopWatching(); writers.Wait(); others.Wait() }()
	watchers := w.watchers()
	for _, one := range watchers {
		others.Go(func() { one.watch(watching) })
	}
	w.listening(watchers)
	for i := range 8 {
		one := &writer{world: w, dice: w.roll(), field: fmt.Sprintf("r%dw%d", w.rounds, i), seen: map[event.Ref]int64{}}
		writers.Go(func() { one.write(writing, refs) })
	}
	registers := make(chan []*register, 1)
	contest, pulse := w.roll(), w.roll()
	writers.Go(func() { registers <- w.contest(writing, contest) })
	writers.Go(func() { w.pulsate(writing, w.pulses, pulse) })
	harness.Play(steps)
	w.heal(refs)
	stopWriting()
	writers.Wait()
	w.agree(refs, watchers)
	w.pulsesAgree(w.pulses, watchers)
	w.linearizable(<-registers)
}

// watchers are two that stay with an instance, two that wander, and one that is slow.
func (w *world) watchers() []*watcher {
	var all []*watcher
	for i := range 5 {
		one := &watcher{world: w, name: fmt.Sprintf("watcher %d", i), dice: w.roll(), topics: "loose.*,held.*,merged.*,pulse.*"}
		one.known, one.heard = map[event.Ref]document{}, map[event.Ref]int{}
		switch i {
		case 0, 1:
			one.home = w.nodes[i]
		case 2:
			one.topics = "*.*"
		case 3:
			one.conflate = true
		}
		all = append(all, one)
	}
	return all
}

// listening waits until all know where they begin, so that they must hear of everything from then on.
func (w *world) listening(watchers []*watcher) {
	for _, one := range watchers {
		harness.Eventually(w.t, harness.Patience, one.name+" listens", func() error {
			one.mu.Lock()
			defer one.mu.Unlock()
			if one.token == "" {
				return errors.New("it has no token yet")
			}
			return nil
		})
	}
}

// contest has some registers, one after the other, fought for by several clients.
func (w *world) contest(ctx context.Context, dice *rand.Rand) []*register {
	var all []*register
	for ctx.Err() == nil {
		part, end := context.WithTimeout(ctx, 2500*time.Millisecond)
		var wg sync.WaitGroup
		for range 2 {
			g := &register{ref: newRef("loose")}
			all = append(all, g)
			for client := range 4 {
				own := rand.New(rand.NewPCG(dice.Uint64(), 0))
				wg.Go(func() { w.contend(part, g, client, own) })
			}
		}
		wg.Wait()
		end()
	}
	return all
}

// heal mends what is left and waits until every instance writes and reads again.
func (w *world) heal(refs []event.Ref) {
	w.t.Helper()
	for _, n := range w.nodes {
		n.Heal()
		n.order(w.t, func(o *orders) { o.Clock, o.Number, o.Signal = 0, o.Number+1, 0 })
	}
	begun := time.Now()
	for _, n := range w.nodes {
		left := max(time.Second, time.Until(begun.Add(healsWithin)))
		harness.Eventually(w.t, left, n.name+" heals", func() error {
			n.run.Resume() // it may have obeyed late
			var s statesync.Status
			if err := n.call(w.t.Context(), "status", struct{}{}, &s); err != nil {
				return err
			}
			if s.Redis != "ok" || !s.Postgres {
				return fmt.Errorf("Redis is %s, PostgreSQL answers: %v", s.Redis, s.Postgres)
			}
			var d document
			return n.call(w.t.Context(), "update", update{Ref: refs[0], Key: uuid.NewString(), Field: "healed", Value: time.Since(w.began).String()}, &d)
		})
	}
	w.healed = append(w.healed, time.Since(begun).Round(time.Millisecond))
}

// row is one event of the log.
type row struct {
	event.Ref
	version int64
	name    string
	data    []byte
	key     string
}

// log reads the events of entities, each entity's in order.
func (w *world) log(refs []event.Ref) []row {
	w.t.Helper()
	ids := make([]uuid.UUID, len(refs))
	for i, r := range refs {
		ids[i] = r.ID
	}
	rows, _ := w.db.Query(w.t.Context(), `select aggregate_type, aggregate_id, version, name, data, coalesce(idempotency_key, '')
		from events where aggregate_id = any($1) order by aggregate_id, version`, ids)
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
		var e row
		err := r.Scan(&e.Type, &e.ID, &e.version, &e.name, &e.data, &e.key)
		return e, err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// agree holds the log against the ledger, and every instance and watcher against the log.
func (w *world) agree(refs []event.Ref, watchers []*watcher) {
	w.t.Helper()
	truth, stores := map[event.Ref]document{}, map[string]int{}
	byKey := map[string][]row{}
	for _, e := range w.log(refs) {
		before := truth[e.Ref]
		data, err := fold(before.Data, e.name, e.data)
		if err != nil || e.version != before.Version+1 || !ended(e.name) && number(data["n"]) != e.version {
			w.t.Errorf("%s version %d after %d with %s: %v", e.Ref, e.version, before.Version, e.data, err)
		}
		for k, v := range data {
			if k != "n" && fmt.Sprint(before.Data[k]) != fmt.Sprint(v) {
				stores[fmt.Sprintf("%s:%v", k, v)]++
			}
		}
		if ended(e.name) {
			stores[e.key]++
		}
		truth[e.Ref] = document{Version: e.version, Deleted: ended(e.name), Data: data}
		byKey[e.key] = append(byKey[e.key], e)
	}
	decided := w.decisions(refs)
	for _, e := range w.entries {
		w.audit(e, byKey[e.Key], stores[e.Key], decided)
	}
	if len(decided) > 0 {
		w.t.Errorf("the conflict log has decisions that nothing came of: %v", decided)
	}
	begun := time.Now()
	docs := make([]document, len(refs))
	for i, r := range refs {
		docs[i] = truth[r]
		if docs[i].Data == nil {
			docs[i].Data = map[string]any{}
		}
	}
	w.converge(refs, digest(docs))
	for _, one := range watchers {
		harness.Eventually(w.t, healsWithin, one.name+" has heard everything", func() error { return one.agrees(truth) })
	}
	w.agreed = append(w.agreed, time.Since(begun).Round(time.Millisecond))
}

// decision is one that made a version of an entity.
type decision struct {
	event.Ref
	version int64
}

// decisions reads from the conflict log how often each was noted.
func (w *world) decisions(refs []event.Ref) map[decision]int {
	w.t.Helper()
	ids := make([]uuid.UUID, len(refs))
	for i, r := range refs {
		ids[i] = r.ID
	}
	rows, _ := w.db.Query(w.t.Context(), `select aggregate_type, aggregate_id, (vectors ->> 'result')::bigint from sync_conflicts
		where aggregate_id = any($1) and vectors ? 'mine'`, ids)
	all := map[decision]int{}
	var d decision
	if _, err := pgx.ForEachRow(rows, []any{&d.Type, &d.ID, &d.version}, func() error { all[d]++; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return all
}

// audit holds one entry of the ledger against the events under its key, how often its value was set, and the decision that
// there must be if the version was not the one expected. Those are taken off decided.
func (w *world) audit(e *entry, events []row, times int, decided map[decision]int) {
	if e.Expect != nil && len(events) == 1 && events[0].version != *e.Expect+1 {
		d := decision{events[0].Ref, events[0].version}
		if decided[d] != 1 {
			w.t.Errorf("%s was merged as version %d of %s: noted %d times in the conflict log", e.Key, d.version, d.Ref, decided[d])
		}
		delete(decided, d)
	}
	if len(events) > 1 || times > 1 {
		w.t.Errorf("%s is in the log %d times, and was done %d times", e.Key, len(events), times)
	}
	switch {
	case e.outcome == stored && (len(events) != 1 || times != 1):
		w.t.Errorf("%s was acknowledged as version %d of %s, but is in the log %d times, and was done %d times", e.Key, e.got.Version, e.Ref, len(events), times)
	case e.outcome == stored && (events[0].Ref != e.Ref || events[0].version != e.got.Version):
		w.t.Errorf("%s was acknowledged as version %d of %s, but is version %d of %s", e.Key, e.got.Version, e.Ref, events[0].version, events[0].Ref)
	case e.outcome == failed && (len(events) > 0 || times > 0):
		w.t.Errorf("%s failed (%v), but is in the log as version %d", e.Key, e.err, events[0].version)
	}
}

// converge waits until every instance has the state and the positions of the log.
func (w *world) converge(refs []event.Ref, want string) {
	w.t.Helper()
	heads, err := event.NewStore(w.db).Heads(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range w.nodes {
		harness.Eventually(w.t, healsWithin, n.name+" agrees", func() error {
			var s statesync.Status
			if err := n.call(w.t.Context(), "status", struct{}{}, &s); err != nil {
				return err
			}
			if s.Applied != heads {
				return fmt.Errorf("it is at %v, the log at %v", s.Applied, heads)
			}
			if s.Epoch != 1 {
				w.fault("%s is in epoch %d, but the log lost nothing", n.name, s.Epoch)
			}
			var have string
			if err := n.call(w.t.Context(), "digest", refs, &have); err != nil {
				return err
			}
			if have != want {
				return fmt.Errorf("its state is %s, the log's %s", have, want)
			}
			return nil
		})
	}
}

// agrees compares what a watcher has with the log.
func (w *watcher) agrees(truth map[event.Ref]document) error {
	known := w.state()
	for ref, want := range truth {
		have := known[ref]
		if w.conflate {
			have.Data = want.Data
		}
		if digest([]document{have}) != digest([]document{want}) {
			return fmt.Errorf("it has %v of %s, the log %v", have, ref, want)
		}
	}
	return nil
}

// snapshots is how many entities there are snapshots of.
func (w *world) snapshots() (n int) {
	w.t.Helper()
	if err := w.db.QueryRow(w.t.Context(), "select count(*) from event_snapshots").Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// verify proves that the log has no gap and that every snapshot is what the events make.
func (w *world) verify() {
	w.t.Helper()
	log, err := event.NewLog(event.LogConfig{DB: w.db})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err = newManager(statesync.Config{DB: w.db, Log: log}); err != nil { // for the folds
		w.t.Fatal(err)
	}
	found, err := event.NewStore(w.db).With(log.Schema()).Verify(w.t.Context(), nil)
	if err != nil || !found.OK() {
		w.t.Errorf("verify: %+v, %v", found, err)
	}
	w.t.Logf("verified %d events, %d entities, %d snapshots", found.Events, found.Entities, found.Snapshots)
	if found.Snapshots == 0 {
		w.t.Error("there was no snapshot to verify")
	}
}

func (w *world) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(w.counts)) {
		w.t.Logf("%s: %d", what, w.counts[what])
	}
	w.t.Logf("%d rounds; healed in %v, agreed in %v, on what is only said in %v", w.rounds, w.healed, w.agreed, w.pulsed)
	for _, f := range w.faults {
		w.t.Error(f)
	}
	if w.more > 0 {
		w.t.Errorf("and %d more", w.more)
	}
	needed := []string{"stored", "reads with a token", "changes heard", "pulses heard", "version_conflict", "unknown, so sent again", "deleted", "merged"}
	if w.rounds == 1 {
		needed = needed[:4]
	}
	for _, what := range needed {
		if w.counts[what] == 0 {
			w.t.Errorf("there was no %q: the test shows nothing", what)
		}
	}
}
