package e2e_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// round is how long each part of a round takes: whole, broken, (healing,) whole again.
var round = struct{ whole, broken time.Duration }{2500 * time.Millisecond, 12 * time.Second}

// healsWithin is how soon every instance works again by itself once nothing is broken any more.
const healsWithin = 10 * time.Second

// TestRevocationHoldsOnEveryInstanceWhateverBreaks is the promise of the session cache: three instances, people who
// sign in and out everywhere, and faults at random. Nobody accepts a token for longer than the bound after its end was
// acknowledged, nobody refuses a live one as invalid, nothing answers with an error of ours, and all agree in the end.
func TestRevocationHoldsOnEveryInstanceWhateverBreaks(t *testing.T) {
	t.Parallel()
	seed := harness.Seed(t)
	w := newWorld(t, seed)
	defer w.report()
	soak := harness.Soak(t, 0)
	schedules := rand.New(rand.NewPCG(seed, 0))
	for begun := time.Now(); ; {
		w.traffic(schedules)
		if t.Failed() || time.Since(begun) > soak {
			break
		}
	}
}

// world is three instances, and people who use them.
type world struct {
	t       *testing.T
	stack   stack
	breaker *breaker
	book    *ledger
	callers []caller
	people  []*person
	old     *pgxpool.Pool // of a program of Phase 24.2, which needs no instance
	seed    uint64
	actors  uint64

	admin struct {
		sync.Mutex
		token string
	}
	canary string // the token of a session that nobody ends
	healed []time.Duration
}

const (
	password = "a password that nobody guesses"
	boss     = "boss"
)

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, book: newLedger(), seed: seed}
	pg, redis := postgrestest.Server(t, "max_connections=400"), cachetest.Server(t)
	w.breaker = &breaker{pg: pg, redis: redis}
	w.stack = stack{dsn: pg.DSN(), redis: redis.URL(), key: masterKey(t), more: append(generous(),
		"ROOTSTREAM_HTTP_TIMEOUT="+requestTimeout.String(), "ROOTSTREAM_POSTGRES_ACQUIRE_TIMEOUT=2s", "ROOTSTREAM_SESSION_LIMIT=10000")}
	w.stack.admin(t, boss, password)
	var err error
	if w.old, err = pgxpool.New(t.Context(), pg.DSN()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.old.Close)
	for i := range 3 {
		n := &node{Lines: harness.NewLines(t, pg, redis)}
		own := w.stack
		own.dsn, own.redis = harness.Through(t, pg.DSN(), n.ToPostgres), harness.Through(t, redis.URL(), n.ToRedis)
		n.instance = own.serve(t, fmt.Sprintf("instance %d", i))
		w.breaker.nodes = append(w.breaker.nodes, n)
		w.callers = append(w.callers, newCaller(n.url))
	}
	for i := range 10 {
		u := &person{name: fmt.Sprintf("person%d", i)}
		u.id = w.callers[0].must(t, 201, "POST", "/v1/users", object{"username": u.name, "email": u.name + "@example.org", "password": password}).body.str("id")
		w.people = append(w.people, u)
	}
	// Once an instance has seen that there are sessions of Phase 24.2 it knows the next one at once.
	w.insert(w.people[0])
	for _, c := range w.callers {
		harness.Eventually(t, patience, "a session of Phase 24.2 is known", func() error { return c.isValid(t.Context(), w.book.byToken[0].value, true) })
	}
	return w
}

// traffic is one round.
func (w *world) traffic(schedules *rand.Rand) {
	steps := w.breaker.schedule(schedules, round.broken)
	w.t.Logf("faults:%s", harness.Print(steps))
	w.canary, _ = w.callers[0].signIn(w.t, boss)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	for range 6 {
		actor, checker := w.dice(), w.dice()
		wg.Go(func() { w.act(ctx, actor) })
		wg.Go(func() { w.check(ctx, checker) })
	}
	w.book.phase.Add(1)
	<-time.After(round.whole)
	w.book.phase.Add(1)
	harness.Play(steps)
	w.heal()
	w.book.phase.Add(1)
	<-time.After(round.whole)
	w.book.phase.Add(1)
	stop()
	wg.Wait()
	w.agree()
}

// dice are of one goroutine.
func (w *world) dice() *rand.Rand {
	w.actors++
	return rand.New(rand.NewPCG(w.seed, w.actors))
}

// heal mends what is left and waits until every instance reads and writes again, without a restart.
func (w *world) heal() {
	for _, n := range w.breaker.nodes {
		n.Heal()
	}
	begun := time.Now()
	for i, c := range w.callers {
		left := max(time.Second, time.Until(begun.Add(healsWithin)))
		harness.Eventually(w.t, left, w.breaker.nodes[i].Name+" heals", func() error {
			if a := c.do(w.t.Context(), "GET", "/readyz", nil); a.body.str("status") != "ready" {
				return errors.New(a.String())
			}
			if a := c.as(w.canary).do(w.t.Context(), "PATCH", "/v1/users/me", object{"display_name": begun.String()}); !a.ok() {
				return errors.New(a.String())
			}
			return c.isValid(w.t.Context(), w.canary, true)
		})
	}
	w.healed = append(w.healed, time.Since(begun))
}

// check validates tokens everywhere until ctx ends.
func (w *world) check(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		if t := w.book.pick(r); t != nil {
			w.validate(t, r.IntN(len(w.callers)))
		}
		<-time.After(harness.Between(r, 1, 8))
	}
}

func (w *world) validate(t *token, at int) answer {
	phase := w.book.phase.Load()
	a := w.callers[at].validate(context.Background(), t.value)
	w.answered("validate", a)
	w.book.judge(t, a, phase)
	return a
}

// answered holds every answer to what none may be.
func (w *world) answered(what string, a answer) {
	if err := a.fault(); err != nil {
		w.book.fault("%s: %v", what, err)
	}
	w.book.count(fmt.Sprintf("%s %d", what, a.status), a.took)
}

// agree compares the ledger, PostgreSQL and every instance once nothing moves.
func (w *world) agree() {
	w.t.Helper()
	c, err := pgx.Connect(w.t.Context(), w.stack.dsn)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	var list []*token
	for _, t := range w.book.byToken {
		if over := t.over.Load(); over == 0 || w.book.since(time.Now())-over > int64(boundWhole) {
			list = append(list, t) // all but those that were replaced and are honoured for some seconds more
		}
	}
	for part := range slices.Chunk(list, 500) {
		w.agreeOn(c, part)
	}
}

const truth = `select coalesce(bool_or(s.is_active and s.revoked_at is null and s.expires_at > now() and u.is_active), false)
	from unnest($1::bytea[]) with ordinality h(hash, n)
	left join (select id, token_hash from sessions
		union all select session_id, token_hash from session_retired_tokens where valid_until > now()) t on t.token_hash = h.hash
	left join sessions s on s.id = t.id left join users u on u.id = s.user_id
	group by h.n order by h.n`

func (w *world) agreeOn(c *pgx.Conn, list []*token) {
	w.t.Helper()
	hashes, values := make([][]byte, len(list)), make([]string, len(list))
	for i, t := range list {
		sum := sha256.Sum256([]byte(t.value))
		hashes[i], values[i] = sum[:], t.value
	}
	rows, _ := c.Query(context.Background(), truth, hashes)
	live, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	if err != nil || len(live) != len(list) {
		w.t.Fatalf("read the truth: %d rows, %v", len(live), err)
	}
	for i, t := range list {
		switch {
		case live[i] && t.over.Load() != 0:
			w.t.Errorf("the end of session %s was acknowledged, but it lives in the database", t.entry.id)
		case !live[i] && t.over.Load() == 0 && !t.disputed.Load():
			w.t.Errorf("session %s was acknowledged, but it is not in the database", t.entry.id)
		}
	}
	for n, caller := range w.callers {
		a := caller.must(w.t, 200, "POST", "/v1/sessions/validate-batch", object{"tokens": values})
		for i, item := range a.body.items() {
			if valid, _ := item["valid"].(bool); valid != live[i] {
				w.t.Errorf("instance %d says %v of session %s, the database %v", n, valid, list[i].entry.id, live[i])
			}
		}
	}
}

func (w *world) report() {
	l := w.book
	slices.Sort(l.lags)
	w.t.Logf("%d sessions, %d tokens", len(l.sessions), len(l.byToken))
	for _, what := range slices.Sorted(maps.Keys(l.counts)) {
		w.t.Logf("%s: %v", what, l.counts[what])
	}
	w.t.Logf("everything whole: %d ends reached all instances, p50 %v, p99 %v, max %v; whatever was broken: max %v; healed in %v",
		len(l.lags), quantile(l.lags, 0.5), quantile(l.lags, 0.99), quantile(l.lags, 1), l.worst, w.healed)
	for _, f := range l.faults {
		w.t.Error(f)
	}
	if l.more > 0 {
		w.t.Errorf("and %d more", l.more)
	}
	for _, name := range []string{"login 200", "logout 204", "refresh 200", "validate 200"} {
		if l.counts[name].n < 3 {
			w.t.Errorf("%q happened %d times: the test shows nothing", name, l.counts[name].n)
		}
	}
}
