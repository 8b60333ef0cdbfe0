package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

const httpNote = `
POST /v1/sessions/validate to a real serve process, 32 kept-alive connections, each sending as soon as it has its answer.
The floor is another process with the same http.Server settings whose handler only reads the same body and answers
nothing; it hardly ever collects garbage. Twice: with the tokens of 10,000 busy clients, most of whom are answered from
the process, and with all distinct tokens, where nearly every call has to read Redis. Sessions are revoked meanwhile.
CPU is that of the server process, and of Redis. What is kept in the process dies after 5 s, also while the floor has its
turn; so turns of the busy clients take as long, and each token is read from Redis as often as if they never paused.

The second is held to two floors. One is the same, and is out of reach: 5 s is the bound on a revocation that was not
heard of, and a million tokens in turn, at this rate, are each asked for again after 20 s and more, so no cache in the
process answers any of them. Each call reads Redis, and what that alone costs the client, Redis and the kernel on
the same two cores is more than the target leaves. The other floor is a handler that reads the body, does one GET of the same key with
the same client (rueidis, no package of ours between) and answers nothing: what anybody must pay who asks Redis for
each request. On top of it serve checks the code over the view and all that a revocation needs, and answers.`

const batchNote = `
POST /v1/sessions/validate-batch with 1000 tokens, 4 kept-alive connections; with the tokens of 100,000 clients, and with
all distinct ones.`

const (
	httpConns = 32
	busy      = 10_000
	busyRound = 5 // halves of a round
)

// asked is one side of the HTTP comparison: connections to a server, and the tokens they ask for.
type asked struct {
	s       *stack
	srv     *server
	tokens  []string
	answers []byte // what an answer must contain; nil for anything
	conns   []*client
	at      []stride
	rates   []float64 // requests a second, by round
	cpu     []float64 // µs a request, by run
	redis   []float64 // the same of Redis
}

func (s *stack) ask(ctx context.Context, srv *server, tokens []string, conns int, answers string) (*asked, error) {
	a := &asked{s: s, srv: srv, tokens: tokens, answers: []byte(answers)}
	for i := range conns {
		c, err := dial(ctx, srv.addr)
		if err != nil {
			return nil, err
		}
		a.conns = append(a.conns, c)
		a.at = append(a.at, newStride(len(tokens), i*len(tokens)/conns))
	}
	return a, nil
}

var (
	bodyStart = []byte(`{"token":"`) //nolint:gochecknoglobals // a constant
	bodyEnd   = []byte(`"}`)         //nolint:gochecknoglobals // a constant

	quotedToken = []byte(`"sst_`) //nolint:gochecknoglobals // a constant
)

var errRefused = errors.New("the server did not answer as it must")

func (a *asked) one(_ context.Context, worker int) error {
	status, body, err := a.conns[worker].post("/v1/sessions/validate", "", bodyStart, []byte(a.tokens[a.at[worker].next()]), bodyEnd)
	if err != nil {
		return err
	}
	if status != 200 || !bytes.Contains(body, a.answers) {
		return fmt.Errorf("%w: %d %s", errRefused, status, body)
	}
	return nil
}

// rate is requests a second; it notes the server's CPU time too.
func (a *asked) rate(ctx context.Context, d time.Duration) (float64, error) {
	before, err := usageOf(a.srv.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	redis, err := usageOf(a.s.redis.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	rate, err := closed(ctx, len(a.conns), d, a.one)
	if err != nil {
		return 0, err
	}
	took := time.Since(begun)
	after, err := usageOf(a.srv.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	a.cpu = append(a.cpu, (after.cpu-before.cpu).Seconds()*1e6/(rate*took.Seconds()))
	after, err = usageOf(a.s.redis.cmd.Process.Pid)
	a.redis = append(a.redis, (after.cpu-redis.cpu).Seconds()*1e6/(rate*took.Seconds()))
	return rate, err
}

func (a *asked) close() {
	for _, c := range a.conns {
		c.close()
	}
}

const validTrue = `"valid":true`

func measureHTTP(ctx context.Context, s *stack) (rows []row, err error) {
	if err = s.warm(ctx); err != nil { // fills the database too
		return nil, err
	}
	var servers []*server // ours, and the two floors
	defer func() {
		for _, srv := range servers {
			err = errors.Join(err, srv.kill())
		}
	}()
	for _, start := range []func(context.Context) (*server, error){
		func(ctx context.Context) (*server, error) { return s.serve(ctx) }, s.floor, s.redisFloor,
	} {
		srv, failure := start(ctx)
		if failure != nil {
			return nil, failure
		}
		servers = append(servers, srv)
	}
	revokers, err := s.revoke(ctx, 100*time.Millisecond)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, revokers.stop()) }()
	return s.httpRows(ctx, servers)
}

func (s *stack) httpRows(ctx context.Context, servers []*server) ([]row, error) {
	few := s.data.tokens[:min(busy, len(s.data.tokens))]
	some, err := s.askAll(ctx, s.round()*busyRound/2, few, servers[:2]...)
	if err != nil {
		return nil, err
	}
	all, err := s.askAll(ctx, s.round(), s.data.tokens, servers...)
	if err != nil {
		return nil, err
	}
	name := func(tokens []string, kind string) string {
		return fmt.Sprintf("validate over HTTP, %s %s", number(float64(len(tokens))), kind)
	}
	rows := []row{some[0].against(some[1], name(few, "busy clients"))}
	for i, kind := range []string{"distinct tokens", "distinct tokens, to a handler that reads Redis"} {
		rows = append(rows, all[0].against(all[i+1], name(s.data.tokens, kind)))
	}
	return rows, nil
}

// against is the comparison of one side with another.
func (a *asked) against(floor *asked, what string) row {
	return compared(what, a.rates, floor.rates, 0.8).
		with("%.1f µs of CPU a request in serve and %.1f in Redis, %.1f and %.1f in the floor and Redis",
			middle(a.cpu), middle(a.redis), middle(floor.cpu), middle(floor.redis))
}

// askAll asks servers, the first of which must answer that they are valid, for tokens by turns.
func (s *stack) askAll(ctx context.Context, d time.Duration, tokens []string, servers ...*server) ([]*asked, error) {
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	var asks []*asked
	var sides []side
	answers := validTrue
	for _, srv := range servers {
		a, err := s.ask(ctx, srv, tokens, httpConns, answers)
		if err != nil {
			return nil, err
		}
		defer a.close()
		asks, sides, answers = append(asks, a), append(sides, side{rate: a.rate}), ""
	}
	rates, err := alternateFor(ctx, s, d, sides...)
	for i := range rates {
		asks[i].rates = rates[i]
	}
	return asks, err
}

// batches are requests of up to 1000 tokens each.
func batches(tokens []string) [][]byte {
	var bodies [][]byte
	for from := 0; from < len(tokens); from += 1000 {
		body := []byte(`{"tokens":[`)
		for i, token := range tokens[from:min(from+1000, len(tokens))] {
			if i > 0 {
				body = append(body, ',')
			}
			body = append(append(append(body, '"'), token...), '"')
		}
		bodies = append(bodies, append(body, `]}`...))
	}
	return bodies
}

// sendBatch sends one batch and checks that all its tokens are valid.
func sendBatch(c *client, body []byte) error {
	status, answer, err := c.post("/v1/sessions/validate-batch", "", body)
	if err != nil {
		return err
	}
	if n := bytes.Count(answer, []byte(validTrue)); status != 200 || n != bytes.Count(body, quotedToken) {
		return fmt.Errorf("%w: %d, %d valid of a batch: %.200s", errRefused, status, n, answer)
	}
	return nil
}

const batchConns = 4

func measureBatch(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	srv, err := s.serve(ctx)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, n := range []int{min(100_000, len(s.data.tokens)), len(s.data.tokens)} {
		if err = s.warm(ctx); err != nil {
			break
		}
		var rates []float64
		if rates, err = s.batchRates(ctx, srv, batches(s.data.tokens[:n])); err != nil {
			break
		}
		rows = append(rows, atLeast(fmt.Sprintf("validate-batch, %s distinct tokens", number(float64(n))), "tokens/s", rates, 200_000))
		if n == len(s.data.tokens) {
			break
		}
	}
	return rows, errors.Join(err, srv.kill())
}

func (s *stack) batchRates(ctx context.Context, srv *server, bodies [][]byte) ([]float64, error) {
	conns := make([]*client, batchConns)
	next := make([]int, batchConns)
	for i := range conns {
		var err error
		if conns[i], err = dial(ctx, srv.addr); err != nil {
			return nil, err
		}
		defer conns[i].close()
		next[i] = i * len(bodies) / batchConns
	}
	tokens := 1000.0
	if len(bodies) == 1 {
		tokens = float64(bytes.Count(bodies[0], quotedToken))
	}
	rates, err := alternate(ctx, s, side{rate: func(ctx context.Context, d time.Duration) (float64, error) {
		rate, err := closed(ctx, batchConns, d, func(_ context.Context, worker int) error {
			next[worker]++
			return sendBatch(conns[worker], bodies[next[worker]%len(bodies)])
		})
		return rate * tokens, err
	}})
	if err != nil {
		return nil, err
	}
	return rates[0], nil
}
