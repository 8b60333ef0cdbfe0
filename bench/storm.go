package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"rootstream/internal/wait"
	"rootstream/postgres"
	"rootstream/session"
)

const revokeNote = `
Two serve processes. Each round a session that both have just accepted is ended through one of them
(POST /v1/auth/logout) and the other is asked about it again and again on one connection. The time counts from before
the logout was sent to the first refusal.`

const stormNote = `
Validations of 5,000 clients arrive over HTTP on a clock, 300 a second, first alone, then while 200 sign-ins of 200
accounts arrive at once: two seconds of Argon2id for every core and more.`

const clientsNote = `
120 goroutines on one pool of 20 connections, each reading sessions without any cache and creating one at every tenth
turn. Any error counts.`

// pair is two serve processes with a connection to each.
type pair struct {
	srv  [2]*server
	conn [2]*client
}

func (s *stack) pair(ctx context.Context) (*pair, error) {
	p := &pair{}
	for i := range p.srv {
		var err error
		if p.srv[i], err = s.serve(ctx); err == nil {
			p.conn[i], err = dial(ctx, p.srv[i].addr)
		}
		if err != nil {
			return nil, errors.Join(err, p.kill())
		}
	}
	return p, nil
}

func (p *pair) kill() error {
	var err error
	for i := range p.srv {
		if p.conn[i] != nil {
			p.conn[i].close()
		}
		if p.srv[i] != nil {
			err = errors.Join(err, p.srv[i].kill())
		}
	}
	return err
}

func measureRevoke(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	p, err := s.pair(ctx)
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	n := min(200, int(10*s.scale.openFor))
	for i := range n {
		var one time.Duration
		// From the front: what revokes beside other measurements works from the end.
		if one, err = p.revokeOne(ctx, s.data.spare[i], i%2); err != nil {
			err = fmt.Errorf("revocation %d: %w", i, err)
			break
		}
		took = append(took, one)
	}
	if err = errors.Join(err, p.kill()); err != nil {
		return nil, err
	}
	all := sorted(took)
	return []row{
		atMost("a revocation is seen by the other process, p99", "ms", []float64{millis(quantile(all, .99))}, 100).
			with("p50 %.2f ms, max %.2f ms of %d", millis(quantile(all, .5)), millis(all[len(all)-1]), len(all)),
	}, nil
}

// revokeOne ends the session of a token through one process and waits for the other to refuse it.
func (p *pair) revokeOne(ctx context.Context, token string, by int) (time.Duration, error) {
	for i := range p.conn {
		for range 2 {
			if ok, err := valid(p.conn[i], token); err != nil || !ok {
				return 0, fmt.Errorf("%w: before its revocation: %w", errRefused, err)
			}
		}
	}
	if err := wait.For(ctx, time.Duration(by+3)*7*time.Millisecond); err != nil { // not in step with any loop
		return 0, err
	}
	begun := time.Now()
	logout := make(chan error, 1)
	go func() {
		status, body, err := p.conn[by].post("/v1/auth/logout", token)
		if err == nil && status != 204 {
			err = fmt.Errorf("%w: logout: %d %s", errRefused, status, body)
		}
		logout <- err
	}()
	for {
		ok, err := valid(p.conn[1-by], token)
		if err != nil {
			return 0, errors.Join(err, <-logout)
		}
		if !ok {
			return time.Since(begun), <-logout
		}
		if time.Since(begun) > patience {
			return 0, errors.New("a revoked session is still accepted")
		}
		if err := wait.For(ctx, 200*time.Microsecond); err != nil {
			return 0, err
		}
	}
}

// valid asks about one token.
func valid(c *client, token string) (bool, error) {
	status, body, err := c.post("/v1/sessions/validate", "", bodyStart, []byte(token), bodyEnd)
	if err != nil {
		return false, err
	}
	if status != 200 {
		return false, fmt.Errorf("%w: %d %s", errRefused, status, body)
	}
	return bytes.Contains(body, []byte(validTrue)), nil
}

func measureStorm(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	signIns := 200
	if s.scale.name != "full" {
		signIns = 20
	}
	accounts, err := s.accounts(ctx, "bench-storm-", signIns)
	if err != nil {
		return nil, err
	}
	return s.served(ctx, func(p *clients) ([]row, error) { return s.stormRows(ctx, p, accounts) })
}

func (s *stack) stormRows(ctx context.Context, p *clients, accounts []*account) ([]row, error) {
	tokens := s.data.tokens[:min(5000, len(s.data.tokens))]
	const perSecond = 300
	ask := func(ctx context.Context, i int) error {
		return p.with(ctx, func(c *client) error {
			ok, err := valid(c, tokens[i*7919%len(tokens)])
			if err == nil && !ok {
				err = errRefused
			}
			return err
		})
	}
	span := time.Duration(min(6, s.scale.openFor) * float64(time.Second))
	if _, err := open(ctx, perSecond, span, ask); err != nil { // fills the caches
		return nil, err
	}
	before, err := open(ctx, perSecond, span, ask)
	if err != nil {
		return nil, err
	}
	sp, err := newClients(ctx, p.addr, len(accounts))
	if err != nil {
		return nil, err
	}
	defer sp.close()
	var wg sync.WaitGroup
	var done, refused atomic.Int64
	begun := time.Now()
	for _, a := range accounts {
		wg.Go(func() {
			if err := a.signIn(ctx, sp); err != nil {
				refused.Add(1)
				return
			}
			done.Add(1)
		})
	}
	stormed := make(chan time.Duration, 1)
	go func() { wg.Wait(); stormed <- time.Since(begun) }()
	var during []time.Duration
	var storm time.Duration
	for storm == 0 { // as long as it lasts
		some, err := open(ctx, perSecond, time.Second/2, ask)
		if err != nil {
			wg.Wait()
			return nil, err
		}
		during = append(during, some...)
		select {
		case storm = <-stormed:
		default:
		}
	}
	b, d := sorted(before), sorted(during)
	return []row{
		about("validate over HTTP before the storm, p99", "ms", millis(quantile(b, .99))),
		atMost("validate over HTTP during the storm, p99", "ms", []float64{millis(quantile(d, .99))}, 10).
			with("p50 %.2f ms, max %.1f ms of %d; the storm took %.1f s, %d sign-ins succeeded, %d were told to come back later",
				millis(quantile(d, .5)), millis(d[len(d)-1]), len(d), storm.Seconds(), done.Load(), refused.Load()),
	}, nil
}

const parallelClients = 120

func measureClients(ctx context.Context, s *stack) ([]row, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	in, err := s.instance(ctx, nil)
	if err != nil {
		return nil, err
	}
	var failures, next atomic.Int64
	var first atomic.Pointer[error]
	at := make([]stride, parallelClients)
	for i := range at {
		at[i] = newStride(len(s.data.tokens), i*len(s.data.tokens)/parallelClients)
	}
	rate, err := closed(ctx, parallelClients, 2*s.round(), func(ctx context.Context, worker int) error {
		n := next.Add(1)
		_, failure := in.Validate(ctx, s.data.tokens[at[worker].next()], session.ClientHint{Strong: true})
		if failure == nil && n%10 == 0 {
			failure = in.db.InTx(ctx, func(tx *postgres.Tx) (err error) {
				_, err = in.Create(ctx, tx, s.newSession(int(n)*7919))
				return err
			})
		}
		if failure != nil {
			failures.Add(1)
			first.CompareAndSwap(nil, &failure)
		}
		return nil
	})
	if err = errors.Join(err, in.stop()); err != nil {
		return nil, err
	}
	errorsRow := atMost("errors of 120 parallel clients, pool of 20", "", []float64{float64(failures.Load())}, 0)
	if e := first.Load(); e != nil {
		errorsRow = errorsRow.with("the first: %v", *e)
	}
	return []row{errorsRow, about("their turns", "/s", rate)}, nil
}
