package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"
	"time"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/faultproxy"
)

// node is an instance behind lines of its own to PostgreSQL and Redis.
type node struct {
	*instance
	toPostgres, toRedis *faultproxy.Proxy
}

// step is one thing that is done to the system.
type step struct {
	at   time.Duration
	what string
	do   func()
}

// breaker breaks and mends: the servers one fault at a time, and at the same time the lines one fault at a time.
type breaker struct {
	pg    *postgrestest.Instance
	redis *cachetest.Redis
	nodes []*node
}

// schedule is a random row of faults that all begin and end within a length of time. It depends on nothing but r.
func (b *breaker) schedule(r *rand.Rand, length time.Duration) []step {
	var steps []step
	for _, track := range []func(*rand.Rand) (string, func(), func()){b.serverFault, b.lineFault} {
		for at := time.Duration(0); ; {
			at += between(r, 100, 900)
			lasts := between(r, 200, 2500)
			if r.IntN(5) == 0 {
				lasts = between(r, 5500, 7000) // long enough for an instance to go blind
			}
			what, do, undo := track(r)
			if at+lasts > length {
				break
			}
			steps = append(steps, step{at, what, do})
			if undo != nil {
				at += lasts
				steps = append(steps, step{at, "end of " + what, undo})
			}
		}
	}
	sort.SliceStable(steps, func(i, j int) bool { return steps[i].at < steps[j].at })
	return steps
}

func between(r *rand.Rand, from, to int) time.Duration {
	return time.Duration(from+r.IntN(to-from)) * time.Millisecond
}

// serverFault concerns all instances.
func (b *breaker) serverFault(r *rand.Rand) (what string, do, undo func()) {
	switch r.IntN(9) {
	case 0:
		return "Redis killed", b.redis.Kill, b.redis.Restart
	case 1:
		return "Redis paused", b.redis.Pause, b.redis.Resume
	case 2, 3:
		return "Redis wiped", b.redis.FlushAll, nil
	case 4:
		return "Redis restarted", b.redis.Restart, nil
	case 5:
		return "PostgreSQL paused", b.pg.Pause, b.pg.Resume
	case 6:
		return "PostgreSQL killed", b.pg.Kill, b.pg.Restart
	case 7:
		return "PostgreSQL restarted", b.pg.Restart, nil
	default:
		return "PostgreSQL read-only", func() { b.pg.ReadOnly(true) }, func() { b.pg.ReadOnly(false) }
	}
}

// lineFault concerns one or two instances.
func (b *breaker) lineFault(r *rand.Rand) (what string, do, undo func()) {
	n := b.nodes[r.IntN(len(b.nodes))]
	lines, whose := []*faultproxy.Proxy{n.toRedis}, "Redis"
	switch r.IntN(5) {
	case 0:
		lines, whose = []*faultproxy.Proxy{n.toPostgres, n.toRedis}, "PostgreSQL and Redis"
	case 1, 2:
		lines, whose = []*faultproxy.Proxy{n.toPostgres}, "PostgreSQL"
	}
	all := func(fn func(*faultproxy.Proxy)) func() {
		return func() {
			for _, p := range lines {
				fn(p)
			}
		}
	}
	kind, fault, lasts := lineKind(r)
	what = fmt.Sprintf("%s loses %s: %s", n.name, whose, kind)
	if !lasts {
		return what, all(fault), nil
	}
	return what, all(fault), all((*faultproxy.Proxy).Heal)
}

func lineKind(r *rand.Rand) (kind string, fault func(*faultproxy.Proxy), lasts bool) {
	way := []faultproxy.Direction{faultproxy.ToServer, faultproxy.ToClient, faultproxy.Both}[r.IntN(3)]
	by := between(r, 20, 400)
	switch r.IntN(9) {
	case 0:
		return "cut", (*faultproxy.Proxy).Cut, true
	case 1:
		return "refused", (*faultproxy.Proxy).Refuse, true
	case 2, 3, 4:
		return fmt.Sprintf("black hole %d", way), func(p *faultproxy.Proxy) { p.BlackHole(way) }, true
	case 5:
		return fmt.Sprintf("late by %v", by), func(p *faultproxy.Proxy) { p.Delay(way, by) }, true
	case 6:
		return "half open", (*faultproxy.Proxy).HalfOpen, false
	case 7:
		return "stranded", (*faultproxy.Proxy).Strand, false
	default:
		return "reset", (*faultproxy.Proxy).Reset, false
	}
}

// print is the schedule in words, the same for the same seed.
func print(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "\n  %6.2fs %s", s.at.Seconds(), s.what)
	}
	return b.String()
}

// play does the steps at their times.
func play(t *testing.T, steps []step) {
	t.Helper()
	begun := time.Now()
	for _, s := range steps {
		<-time.After(time.Until(begun.Add(s.at)))
		s.do()
	}
}

func TestTheSameSeedIsTheSameSchedule(t *testing.T) {
	t.Parallel()
	b := &breaker{nodes: []*node{{instance: &instance{program: &program{name: "one"}}}, {instance: &instance{program: &program{name: "two"}}}}}
	first := print(b.schedule(rand.New(rand.NewPCG(7, 0)), time.Minute))
	if again := print(b.schedule(rand.New(rand.NewPCG(7, 0)), time.Minute)); again != first {
		t.Errorf("seed 7 gave%s\nand then%s", first, again)
	}
	if other := print(b.schedule(rand.New(rand.NewPCG(8, 0)), time.Minute)); other == first {
		t.Error("another seed gave the same schedule")
	}
	if len(first) < 500 {
		t.Errorf("a minute of faults is only%s", first)
	}
}
