package harness

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/faultproxy"
)

// Seed is ROOTSTREAM_SEED, or a random one. It is logged, so that the run can be repeated.
func Seed(tb testing.TB) uint64 {
	tb.Helper()
	seed := rand.Uint64() >> 32 //nolint:gosec // not a secret
	if text := os.Getenv("ROOTSTREAM_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			tb.Fatalf("ROOTSTREAM_SEED: %v", err)
		}
	}
	tb.Logf("ROOTSTREAM_SEED=%d", seed)
	return seed
}

// Soak is how long a random test is to go on: ROOTSTREAM_SOAK, or else least.
func Soak(tb testing.TB, least time.Duration) time.Duration {
	tb.Helper()
	text := os.Getenv("ROOTSTREAM_SOAK")
	if text == "" {
		return least
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		tb.Fatalf("ROOTSTREAM_SOAK: %v", err)
	}
	return max(d, least)
}

// Fault is something that is done to the system, and how it ends; a nil Undo means that it ends by itself.
type Fault struct {
	What     string
	Do, Undo func()
	Lasts    time.Duration // 0 means that the schedule decides
}

// Track draws the faults of one kind. Its faults follow each other; those of other tracks come at the same time.
type Track func(*rand.Rand) Fault

// Step is the beginning or the end of a fault.
type Step struct {
	At   time.Duration
	What string
	Do   func()
}

// Schedule is a random row of faults that all begin and end within a length of time. It depends on nothing but r.
func Schedule(r *rand.Rand, length time.Duration, tracks ...Track) []Step {
	var steps []Step
	for _, track := range tracks {
		for at := time.Duration(0); ; {
			at += Between(r, 100, 900)
			lasts := Between(r, 200, 2500)
			if r.IntN(5) == 0 {
				lasts = Between(r, 5500, 7000) // long enough for an instance to go blind
			}
			f := track(r)
			lasts = cmp.Or(f.Lasts, lasts)
			if at+lasts > length {
				break
			}
			steps = append(steps, Step{at, f.What, f.Do})
			if f.Undo != nil {
				at += lasts
				steps = append(steps, Step{at, "end of " + f.What, f.Undo})
			}
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return steps
}

// Between draws a time of so many milliseconds.
func Between(r *rand.Rand, from, to int) time.Duration {
	return time.Duration(from+r.IntN(to-from)) * time.Millisecond
}

// Print is a schedule in words, the same for the same seed.
func Print(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		_, _ = fmt.Fprintf(&b, "\n  %6.2fs %s", s.At.Seconds(), s.What)
	}
	return b.String()
}

// Play does the steps at their times.
func Play(steps []Step) {
	begun := time.Now()
	for _, s := range steps {
		<-time.After(time.Until(begun.Add(s.At)))
		s.Do()
	}
}

// Servers draws faults of the servers, which concern all instances.
func Servers(pg *postgrestest.Instance, redis *cachetest.Redis) Track {
	postgres := Postgres(pg)
	return func(r *rand.Rand) Fault {
		switch r.IntN(9) {
		case 0:
			return Fault{What: "Redis killed", Do: redis.Kill, Undo: redis.Restart}
		case 1:
			return Fault{What: "Redis paused", Do: redis.Pause, Undo: redis.Resume}
		case 2, 3:
			return Fault{What: "Redis wiped", Do: redis.FlushAll}
		case 4:
			return Fault{What: "Redis restarted", Do: redis.Restart}
		default:
			return postgres(r)
		}
	}
}

// Postgres draws those of PostgreSQL.
func Postgres(pg *postgrestest.Instance) Track {
	return func(r *rand.Rand) Fault {
		switch r.IntN(4) {
		case 0:
			return Fault{What: "PostgreSQL paused", Do: pg.Pause, Undo: pg.Resume}
		case 1:
			return Fault{What: "PostgreSQL killed", Do: pg.Kill, Undo: pg.Restart}
		case 2:
			return Fault{What: "PostgreSQL restarted", Do: pg.Restart}
		default:
			return Fault{What: "PostgreSQL read-only", Do: func() { pg.ReadOnly(true) }, Undo: func() { pg.ReadOnly(false) }}
		}
	}
}

// Lines are an instance's own ways to the servers; ToRedis is nil if it finds Redis by itself.
type Lines struct {
	ToPostgres, ToRedis *faultproxy.Proxy
}

// NewLines puts proxies in front of the servers; redis may be nil.
func NewLines(tb testing.TB, pg *postgrestest.Instance, redis *cachetest.Redis) Lines {
	tb.Helper()
	l := Lines{ToPostgres: faultproxy.New(tb, pg.Addr())}
	if redis != nil {
		l.ToRedis = faultproxy.New(tb, redis.Addr())
	}
	return l
}

// Heal makes both whole.
func (l Lines) Heal() {
	l.ToPostgres.Heal()
	if l.ToRedis != nil {
		l.ToRedis.Heal()
	}
}

// Fault draws a fault of one line or both.
func (l Lines) Fault(r *rand.Rand, name string) Fault {
	lines, whose := []*faultproxy.Proxy{l.ToRedis}, "Redis"
	switch r.IntN(5) {
	case 0:
		lines, whose = []*faultproxy.Proxy{l.ToPostgres, l.ToRedis}, "PostgreSQL and Redis"
	case 1, 2:
		lines, whose = []*faultproxy.Proxy{l.ToPostgres}, "PostgreSQL"
	}
	if l.ToRedis == nil {
		lines, whose = []*faultproxy.Proxy{l.ToPostgres}, "PostgreSQL"
	}
	all := func(fn func(*faultproxy.Proxy)) func() {
		return func() {
			for _, p := range lines {
				fn(p)
			}
		}
	}
	kind, fault, lasts := lineKind(r)
	f := Fault{What: fmt.Sprintf("%s loses %s: %s", name, whose, kind), Do: all(fault)}
	if lasts {
		f.Undo = all((*faultproxy.Proxy).Heal)
	}
	return f
}

func lineKind(r *rand.Rand) (kind string, fault func(*faultproxy.Proxy), lasts bool) {
	way := []faultproxy.Direction{faultproxy.ToServer, faultproxy.ToClient, faultproxy.Both}[r.IntN(3)]
	by := Between(r, 20, 400)
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

// Through replaces the address in a URL by that of a proxy.
func Through(tb testing.TB, raw string, p *faultproxy.Proxy) string {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		tb.Fatal(err)
	}
	u.Host = p.Addr()
	return u.String()
}
