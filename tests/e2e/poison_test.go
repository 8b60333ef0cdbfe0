package e2e_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// poisoner is somebody who can write to Redis, and to nothing else.
type poisoner struct {
	t     *testing.T
	redis *cachetest.Redis
	one   caller // has made every view
	// Each asks with nothing in its memory: an instance that has heard of all that was revoked, and one that has
	// only just been started.
	others []caller
}

func view(token string) string { return cache.SessionView(sha256.Sum256([]byte(token))) }

func lease(token string) string { return cache.SessionLease(sha256.Sum256([]byte(token))) }

// cached is the view of a token that an instance has put into Redis.
func (p *poisoner) cached(token string) string {
	p.t.Helper()
	var raw string
	harness.Eventually(p.t, patience, "the view is in Redis", func() error {
		if err := p.one.isValid(p.t.Context(), token, true); err != nil {
			return err
		}
		raw, _ = p.redis.Do("GET", view(token)).(string)
		if len(raw) < 100 || raw[0] != 'V' {
			return fmt.Errorf("Redis has %q", raw)
		}
		return nil
	})
	return raw
}

// do runs commands and gives the instances a moment to hear that something has changed.
func (p *poisoner) do(commands ...[]string) {
	p.t.Helper()
	for _, c := range commands {
		p.redis.Do(c...)
	}
	<-time.After(5 * time.Millisecond)
}

// isPlain holds every instance, after the poison was given, to what a token is: a user's, of the lowest assurance.
func (p *poisoner) isPlain(name, token, user string, poison ...[]string) {
	p.t.Helper()
	for _, c := range append([]caller{p.one}, p.others...) {
		p.do(poison...)
		a := c.validate(p.t.Context(), token)
		s, _ := a.body["session"].(map[string]any)
		if valid, _ := a.valid(); !valid || s["user_id"] != user || s["role"] != "user" || s["aal"] != 1.0 {
			p.t.Errorf("%s: %v, want user %s with role user and AAL 1", name, a, user)
		}
		if a := c.as(token).do(p.t.Context(), "GET", "/v1/admin/users", nil); a.status != http.StatusForbidden {
			p.t.Errorf("%s: %v, want 403", name, a)
		}
	}
}

// refused holds every instance, after the poison was given, to letting a token in no more.
func (p *poisoner) refused(name, token string, poison ...[]string) {
	p.t.Helper()
	for _, c := range append([]caller{p.one}, p.others...) {
		p.do(poison...)
		if err := c.isValid(p.t.Context(), token, false); err != nil {
			p.t.Errorf("%s: %v", name, err)
		}
		if a := c.as(token).do(p.t.Context(), "GET", "/v1/users/me", nil); a.status != http.StatusUnauthorized {
			p.t.Errorf("%s: %v, want 401", name, a)
		}
	}
}

func TestPoisonedRedisConvincesNobody(t *testing.T) {
	t.Parallel()
	redis := cachetest.Server(t)
	st := stack{dsn: postgrestest.DSN(t), redis: redis.URL(), key: masterKey(t), more: generous()}
	st.admin(t, boss, password)
	p := &poisoner{t: t, redis: redis, one: newCaller(st.serve(t, "one").url), others: []caller{newCaller(st.serve(t, "other").url)}}
	p.one.must(t, 201, "POST", "/v1/users", object{"username": "ada", "email": "ada@example.org", "password": password})
	ada := func() (token, session string) { return p.one.signIn(t, "ada") }
	bossToken, _ := p.one.signIn(t, boss)
	bossView := p.cached(bossToken)

	altered, _ := ada()
	user := p.one.as(altered).must(t, 200, "GET", "/v1/users/me", nil).body.str("id")
	original := p.cached(altered)
	revoked, _ := ada()
	stale := p.cached(revoked)
	removed, session := ada()
	alsoStale := p.cached(removed)
	rotated, _ := ada()
	oldView := p.cached(rotated)
	stepped, _ := ada()
	p.cached(stepped)
	p.one.must(t, 201, "POST", "/v1/users", object{"username": "eve", "email": "eve@example.org", "password": password})
	gone, _ := p.one.signIn(t, "eve")
	last := p.cached(gone)

	p.one.as(revoked).must(t, 204, "POST", "/v1/auth/logout", nil)
	p.one.as(altered).must(t, 204, "DELETE", "/v1/sessions/"+session, nil)
	p.one.as(gone).must(t, 204, "DELETE", "/v1/users/me", nil)
	again := p.one.as(stepped).must(t, 200, "POST", "/v1/auth/reauthenticate", object{"password": password}).body.str("token")
	afresh := st.serve(t, "afresh") // knows nothing but what it reads
	p.others = append(p.others, newCaller(afresh.url))

	for name, replay := range map[string]struct{ token, view string }{
		"the view of a session that signed out":         {revoked, stale},
		"the view of a session that was ended":          {removed, alsoStale},
		"another's view at a token that has ended":      {revoked, oldView},
		"the administrator's at a token that has ended": {revoked, bossView},
		"the view of an account that was deleted":       {gone, last},
		"the administrator's at a deleted account's":    {gone, bossView},
		"a view at the token before a step-up":          {stepped, oldView},
	} {
		p.refused(name, replay.token, []string{"SET", view(replay.token), replay.view}, []string{"DEL", lease(replay.token)})
	}
	p.isPlain("the token after a step-up", again, user)
	before := p.forged()
	n := p.plantedAt(altered, user, original, bossView)
	for i, after := range p.forged() {
		if seen := after - before[i]; seen < float64(n)/2 {
			t.Errorf("instance %d has looked at %v of %d forged views: the test shows little", i, seen, n)
		}
	}
	p.refused("after all that, the session that signed out", revoked)
	p.isPlain("after all that, a live session", rotated, user)
}

// forged is how many views each instance has found that were not made by any.
func (p *poisoner) forged() (counts []float64) {
	p.t.Helper()
	for _, c := range append([]caller{p.one}, p.others...) {
		counts = append(counts, metric(p.t, c, "rootstream_session_redis_forged_total"))
	}
	return counts
}

// plantedAt is a live token at whose place in Redis all kinds of things are put: it stays what it is. It returns how
// many of them have the look of a view.
func (p *poisoner) plantedAt(token, user, original, bossView string) (n int) {
	p.t.Helper()
	flipped := func(at int) string {
		b := []byte(original)
		b[at] ^= 1
		return string(b)
	}
	later := []byte(original)
	binary.BigEndian.PutUint64(later[1:], 1<<60) // a version nothing can be newer than
	planted := map[string]string{
		"the administrator's view": bossView, "half a view": original[:len(original)/2], "a view and more": original + "x",
		"nothing": "", "one byte": "V", "a tombstone": "T\x00\x00\x00\x00\x00\x00\x00\x01",
		"a tombstone for ever": "T\x7f\xff\xff\xff\xff\xff\xff\xff", "a version for ever": string(later),
		"garbage": strings.Repeat("\xff", len(original)), "a megabyte": strings.Repeat("V", 1<<20),
	}
	for at := 0; at < len(original); at += 7 { // ids, times, role, assurance, code
		planted[fmt.Sprintf("byte %d changed", at)] = flipped(at)
	}
	for name, value := range planted {
		p.isPlain(name, token, user, []string{"SET", view(token), value})
	}
	p.isPlain("a list", token, user, []string{"DEL", view(token)}, []string{"RPUSH", view(token), "a", "list"})
	p.isPlain("a list at the lease", token, user, []string{"DEL", view(token), lease(token)}, []string{"RPUSH", lease(token), "a", "list"})
	p.isPlain("a lease that nobody gives back", token, user, []string{"DEL", view(token)}, []string{"SET", lease(token), "somebody else's"})
	p.isPlain("the view itself", token, user, []string{"SET", view(token), original}, []string{"DEL", lease(token)})
	p.isPlain("and from memory", token, user)
	return len(planted) - 3 // nothing and tombstones look like what we write
}
