package session_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rootstream/errs"
	"rootstream/session"
)

func slowPoll(c *session.Config) { c.PollInterval, c.MaxBlind = 30*time.Second, 2*time.Minute }

// cached waits until Redis holds the view of a token.
func (w *world) cached(m *session.Manager, token string) string {
	w.t.Helper()
	var raw string
	eventually(w.t, 5*time.Second, func() bool {
		m.DropNear()
		if !valid(m, token) {
			return false
		}
		s, ok := w.redis.Do("GET", viewKey(token)).(string)
		raw = s
		return ok && s != "" && s[0] == 'V'
	})
	return raw
}

// A reader that was slow must not put back what was revoked after it had read.
func TestPitfall17SlowReaderCannotResurrect(t *testing.T) {
	t.Parallel()
	for _, wipe := range []string{"nothing more", "redis wiped", "redis restarted"} {
		t.Run(wipe, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			revoker := w.instance(slowPoll)
			slow := w.instance(slowPoll)
			token, s := w.login(revoker)
			reached, goOn := make(chan struct{}), make(chan struct{})
			var once atomic.Bool
			slow.OnLoaded(func() {
				if once.CompareAndSwap(false, true) {
					close(reached)
					<-goOn
				}
			})
			var wg sync.WaitGroup
			wg.Go(func() { valid(slow, token) }) // what it answers was true when it asked
			<-reached
			w.revoke(revoker, s)
			switch wipe {
			case "redis wiped":
				w.redis.FlushAll()
			case "redis restarted":
				w.redis.Restart()
			}
			<-time.After(300 * time.Millisecond) // the reader's instance hears of it before the reader goes on
			close(goOn)
			wg.Wait()
			if slow.NearStats().Entries != 0 || valid(slow, token) {
				t.Error("the reader's instance keeps what was invalidated while it was read")
			}
			fresh := w.instance(slowPoll)
			if wipe != "redis restarted" {
				if raw, ok := w.redis.Do("GET", viewKey(token)).(string); ok && strings.HasPrefix(raw, "V") {
					t.Error("the reader filled in what was revoked")
				}
			}
			if valid(fresh, token) || valid(revoker, token) {
				t.Error("the session lives again")
			}
			// The reader itself hears of it at its next poll at the latest.
			if err := slow.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if valid(slow, token) {
				t.Error("the session lives on in the reader")
			}
		})
	}
}

// The same within one process: what was invalidated while it was read is not kept.
func TestPitfall18NearFillAfterInvalidationIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance(slowPoll)
	token, s := w.login(m)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	m.OnLoaded(func() {
		if once.CompareAndSwap(false, true) {
			close(reached)
			<-goOn
		}
	})
	result := make(chan error)
	go func() {
		_, err := m.Validate(context.Background(), token, session.ClientHint{})
		result <- err
	}()
	<-reached
	w.revoke(m, s)
	close(goOn)
	if err := <-result; !errors.Is(err, session.ErrInvalid) {
		t.Errorf("a validation that outlasted the revocation on its own instance: %v", err)
	}
	if m.NearStats().Entries != 0 || valid(m, token) {
		t.Error("the view was kept")
	}
}

// Whoever writes to Redis becomes nobody: nothing there counts that we did not seal for that very token.
func TestPitfall33PlantedViewsAreNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	token, s := w.login(m)
	admin, _ := w.login(m)
	w.exec(`update users set role = 'admin' where id = (select user_id from sessions where token_hash = $1)`, sum(admin))
	eventually(t, 5*time.Second, func() bool {
		v, err := m.Validate(t.Context(), admin, session.ClientHint{})
		return err == nil && v.Role == session.RoleAdmin
	})
	own, others := w.cached(m, token), w.cached(m, admin)
	v, ok := session.DecodeView([]byte(own[:len(own)-32]))
	if !ok || v.SessionID != s.ID {
		t.Fatalf("view in Redis %+v", v)
	}
	if strings.Contains(own, token) || strings.Contains(own, token[4:20]) {
		t.Error("the token is in Redis")
	}
	v.Role, v.Version = session.RoleAdmin, v.Version+10
	altered := string(session.EncodeView(v))
	for name, planted := range map[string]string{
		"another's view":      others,
		"altered, old code":   altered + own[len(own)-32:],
		"altered, no code":    altered,
		"altered, zero code":  altered + strings.Repeat("\x00", 32),
		"one bit":             own[:40] + string(own[40]^1) + own[41:],
		"cut":                 own[:20],
		"empty":               "",
		"garbage":             strings.Repeat("x", len(own)),
		"planted tombstone":   "T\x7f\xff\xff\xff\xff\xff\xff\xff",
		"short tombstone":     "T",
		"unknown layout":      own[:9] + "\x02" + own[10:],
		"something else here": "V",
	} {
		w.redis.Do("SET", viewKey(token), planted)
		m.DropNear()
		v, err := m.Validate(t.Context(), token, session.ClientHint{})
		if err != nil || v.Role != session.RoleUser || v.SessionID != s.ID {
			t.Errorf("%s: %+v %v", name, v, err)
		}
		eventually(t, 5*time.Second, func() bool { // it heals: a true view takes the place
			m.DropNear()
			valid(m, token)
			raw, _ := w.redis.Do("GET", viewKey(token)).(string)
			return len(raw) == len(own) && raw[:30] == own[:30]
		})
	}
	if m.Forged() == 0 {
		t.Error("nothing was counted as forged")
	}
	unknown := session.Format([32]byte{7})
	w.redis.Do("SET", viewKey(unknown), others)
	if valid(m, unknown) {
		t.Error("a token that was never issued became an administrator")
	}
	w.redis.Do("DEL", viewKey(token))
	w.redis.Do("LPUSH", viewKey(token), "not a string")
	m.DropNear()
	if !valid(m, token) {
		t.Error("a key of another type in its place refuses a valid token")
	}
}

// A view that was true before the revocation may be replayed by whoever recorded it, or by a failover.
func TestPitfall19ReplayedViewsAfterFailoverAreNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	token, s := w.login(m)
	before := w.cached(m, token)
	w.revoke(m, s)
	w.redis.Do("SET", viewKey(token), before) // the tombstone is lost
	m.DropNear()
	if valid(m, token) {
		t.Error("the instance that revoked it believes a replayed view")
	}
	bystander := w.instance()
	if valid(bystander, token) {
		t.Error("an instance that was started later does")
	}
	// The same with an unclean restart in between, as a failover to a replica that lags looks from here.
	token, s = w.login(m)
	before = w.cached(m, token)
	if !valid(bystander, token) {
		t.Fatal("not valid")
	}
	w.revoke(m, s)
	w.redis.Kill()
	w.redis.Restart()
	w.redis.Do("SET", viewKey(token), before)
	if err := bystander.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, i := range []*session.Manager{m, bystander} {
		eventually(t, 10*time.Second, func() bool { return !valid(i, token) })
		i.DropNear()
		if valid(i, token) {
			t.Error("a replayed view counts after a failover")
		}
	}
}

// Two caches one behind the other must not add their lives up; with Redis silent the process's own is short.
func TestPitfall20SilentRedisMeansShortLives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance(slowPoll)
	token, _ := w.login(m)
	w.cached(m, token)
	w.redis.Pause()
	defer w.redis.Resume()
	eventually(t, 10*time.Second, func() bool { // the link is found dead and everything is dropped
		loads := m.DBLoads()
		if !valid(m, token) {
			t.Fatal("refused although PostgreSQL answers")
		}
		return m.DBLoads() > loads
	})
	// From here on each entry lives for a second: in three seconds PostgreSQL is asked again more than once.
	before, start := m.DBLoads(), time.Now()
	for time.Since(start) < 3*time.Second {
		if !valid(m, token) {
			t.Fatal("refused although PostgreSQL answers")
		}
		<-time.After(10 * time.Millisecond)
	}
	if n := m.DBLoads() - before; n < 2 || n > 10 {
		t.Errorf("%d readings in three seconds", n)
	}
	w.redis.Resume()
	hits := m.RedisHits()
	eventually(t, 15*time.Second, func() bool { // and it heals
		m.DropNear()
		return valid(m, token) && m.RedisHits() > hits
	})
}

func TestRedisFaultsOnlyMakeItSlower(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m, other := w.instance(), w.instance()
	token, s := w.login(m)
	w.cached(m, token)
	w.redis.FlushAll()
	m.DropNear()
	if !valid(m, token) {
		t.Error("refused after a wipe")
	}
	w.redis.Kill()
	for range 20 {
		if !valid(m, token) || !valid(other, token) {
			t.Fatal("refused without Redis")
		}
		m.DropNear()
	}
	second, _ := w.login(m)
	c, err := m.Refresh(t.Context(), second)
	if err != nil || !valid(other, c.Token.Reveal()) {
		t.Errorf("refresh without Redis: %v", err)
	}
	w.revoke(m, s)
	if valid(m, token) {
		t.Error("valid where it was revoked")
	}
	eventually(t, 5*time.Second, func() bool { return !valid(other, token) })
	w.redis.Restart()
	hits := m.RedisHits()
	eventually(t, 15*time.Second, func() bool {
		m.DropNear()
		return valid(m, c.Token.Reveal()) && m.RedisHits() > hits
	})
	if valid(m, token) || valid(other, token) {
		t.Error("Redis came back with the session")
	}
}

func TestBothDownMeansRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	db, p := w.behindProxy()
	m := w.instance(func(c *session.Config) { c.DB, c.FeedDB = db, db })
	token, _ := w.login(w.idle())
	if !valid(m, token) {
		t.Fatal("not valid")
	}
	w.redis.Kill()
	p.Cut(true)
	start := time.Now()
	eventually(t, 10*time.Second, func() bool {
		_, err := m.Validate(t.Context(), token, session.ClientHint{})
		return errs.KindOf(err) == errs.Unavailable
	})
	t.Logf("refused after %v", time.Since(start))
	p.Cut(false)
	eventually(t, 15*time.Second, func() bool { return valid(m, token) })
}

// Many who ask for the same token at once cost one reading.
func TestOneReaderForAllWhoAsk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	token, _ := w.login(m)
	reached, goOn := make(chan struct{}, 100), make(chan struct{})
	m.OnLoaded(func() {
		reached <- struct{}{}
		<-goOn
	})
	before := m.DBLoads()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if !valid(m, token) {
				t.Error("refused")
			}
		})
	}
	<-reached
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := m.Validate(ctx, token, session.ClientHint{}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("who gives up: %v", err)
	}
	close(goOn)
	wg.Wait()
	if n := m.DBLoads() - before; n > 3 {
		t.Errorf("%d readings", n)
	}
	// What is unknown is asked for once a second at most.
	unknown, loads := session.Format([32]byte{9}), m.DBLoads()
	for range 100 {
		valid(m, unknown)
	}
	if n := m.DBLoads() - loads; n > 5 {
		t.Errorf("%d readings of an unknown token", n)
	}
	loads = m.DBLoads()
	if err := m.FindLegacy(); err != nil || m.LegacyPossible() {
		t.Errorf("legacy tokens may be about: %v", err)
	}
	var broken []string
	for i := range byte(100) {
		valid(m, "garbage")
		valid(m, "sst_garbage")
		whole := session.Format([32]byte{10, i})
		broken = append(broken, whole[:len(whole)-1]+"!")
		valid(m, broken[i])
	}
	if _, err := m.ValidateBatch(t.Context(), broken); err != nil {
		t.Error(err)
	}
	if n := m.DBLoads() - loads; n != 0 {
		t.Errorf("%d readings of garbage", n)
	}
}
