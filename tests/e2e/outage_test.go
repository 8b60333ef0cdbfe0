package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// maxBlind is how long an instance may go on without news of revocations.
const maxBlind = 5 * time.Second

// site is two instances on servers that the test breaks.
type site struct {
	t          *testing.T
	pg         *postgrestest.Instance
	redis      *cachetest.Redis
	one, other caller
	names      int
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, pg: postgrestest.Server(t), redis: cachetest.Server(t)}
	// Fewer failures are tolerated than by default, so that few password hashes prove that limits hold.
	st := stack{dsn: s.pg.DSN(), redis: s.redis.URL(), key: masterKey(t), more: append(generous(),
		"ROOTSTREAM_HTTP_TIMEOUT="+requestTimeout.String(), "ROOTSTREAM_AUTH_RATE_FREE_CLIENT=3")}
	s.one, s.other = newCaller(st.serve(t, "one").url), newCaller(st.serve(t, "other").url)
	return s
}

// person makes an account and signs in to it.
func (s *site) person() (name, token string) {
	s.t.Helper()
	s.names++
	name = fmt.Sprintf("person%d", s.names)
	if a := s.one.register(s.t.Context(), name, password); a.status != http.StatusCreated {
		s.t.Fatal(a)
	}
	token, _ = s.one.signIn(s.t, name)
	return name, token
}

// known makes a session that one instance has in its memory and the other finds in Redis.
func (s *site) known() string {
	s.t.Helper()
	_, token := s.person()
	if err := s.one.isValid(s.t.Context(), token, true); err != nil {
		s.t.Fatal(err)
	}
	return token
}

// works is everything people do, without exception.
func (s *site) works() {
	s.t.Helper()
	_, token := s.person()
	c := s.one.as(token)
	for _, both := range []caller{s.one, s.other} {
		if err := both.isValid(s.t.Context(), token, true); err != nil {
			s.t.Error(err)
		}
	}
	c.must(s.t, 200, "GET", "/v1/users/me", nil)
	stream := c.must(s.t, 201, "POST", "/v1/streams", object{"name": "on air"}).body.str("id")
	c.must(s.t, 200, "POST", "/v1/streams/"+stream+"/start", nil)
	c = s.other.as(c.must(s.t, 200, "POST", "/v1/auth/refresh", nil).body.str("token"))
	c.must(s.t, 204, "POST", "/v1/auth/logout", nil)
	over := time.Now()
	for _, both := range []caller{s.one, s.other} {
		for _, ended := range []string{token, c.token} {
			harness.Eventually(s.t, maxBlind-time.Since(over), "the session ends", func() error { return both.isValid(s.t.Context(), ended, false) })
		}
	}
}

// limits are still kept: few guesses at a password are judged.
func (s *site) limits() {
	s.t.Helper()
	name, _ := s.person()
	judged := 0
	for range 8 {
		switch a := s.one.login(s.t.Context(), name, "not the password"); a.status {
		case http.StatusUnauthorized:
			judged++
		case http.StatusTooManyRequests:
		default:
			s.t.Error(a)
		}
	}
	if judged > 3 {
		s.t.Errorf("%d guesses in a row were judged, want 3 at most", judged)
	}
}

// refused sends all kinds of requests that need the database; each is told to try again, in time.
func (s *site) refused(token string, code string) {
	s.t.Helper()
	var wg sync.WaitGroup
	for _, r := range []struct {
		method, path, token string
		body                object
	}{
		{"POST", "/v1/users", "", object{"username": "nobody", "email": "nobody@example.org", "password": password}},
		{"POST", "/v1/auth/login", "", object{"login": "person1", "password": password}},
		{"POST", "/v1/auth/login", "", object{"login": "person1", "password": "not the password"}},
		{"POST", "/v1/auth/login", "", object{"login": "nobody-has-this-name", "password": password}}, // or it would tell that
		{"POST", "/v1/auth/recovery", "", object{"login": "person1"}},
		{"POST", "/v1/auth/recovery", "", object{"login": "nobody-has-this-name"}},
		{"POST", "/v1/users/verify", "", object{"token": strings.Repeat("a", 43)}},
		{"POST", "/v1/auth/refresh", token, nil},
		{"POST", "/v1/auth/reauthenticate", token, object{"password": password}},
		{"PATCH", "/v1/users/me", token, object{"display_name": "x"}},
		{"POST", "/v1/streams", token, object{"name": "x"}},
		{"DELETE", "/v1/sessions?scope=others", token, nil},
		{"POST", "/v1/mfa/totp", token, object{}},
	} {
		wg.Go(func() {
			var body any
			if r.body != nil {
				body = r.body
			}
			a := s.one.as(r.token).do(context.Background(), r.method, r.path, body)
			if err := a.fault(); err != nil {
				s.t.Error(err)
			}
			if a.status != http.StatusServiceUnavailable || (code != "" && a.body.str("code") != code) {
				s.t.Errorf("%v, want 503 %s", a, code)
			}
		})
	}
	wg.Wait()
}

// refuses is whether both instances let nobody in, whoever asks.
func (s *site) refuses(tokens ...string) error {
	for _, c := range []caller{s.one, s.other} {
		for _, token := range tokens {
			a := c.validate(s.t.Context(), token)
			if err := a.fault(); err != nil {
				s.t.Error(err)
			}
			if a.status != http.StatusServiceUnavailable {
				return fmt.Errorf("%v, want 503", a)
			}
		}
	}
	return nil
}

// status waits for what /readyz says of both instances.
func (s *site) status(code int, status string) {
	s.t.Helper()
	for _, c := range []caller{s.one, s.other} {
		harness.Eventually(s.t, healsWithin, "the instance is "+status, func() error {
			a := c.do(s.t.Context(), "GET", "/readyz", nil)
			if a.status != code || a.body.str("status") != status {
				return fmt.Errorf("%v", a)
			}
			return nil
		})
		c.must(s.t, 200, "GET", "/healthz", nil)
	}
}

// healed waits until all is well again by itself.
func (s *site) healed(tokens ...string) {
	s.t.Helper()
	s.status(200, "ready")
	for _, c := range []caller{s.one, s.other} {
		for _, token := range tokens {
			if err := c.isValid(s.t.Context(), token, true); err != nil {
				s.t.Error(err)
			}
		}
	}
	s.works()
}

func TestOutagesAreAnsweredAsPromised(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	row := func(name string, fn func(s *site)) {
		t.Run(name, func(t *testing.T) {
			own := *s
			own.t = t
			begun := time.Now()
			fn(&own)
			s.names = own.names
			t.Logf("took %v", time.Since(begun))
		})
	}
	row("all is well", (*site).works)
	row("Redis is wiped", func(s *site) { s.redis.FlushAll(); s.works() })
	row("Redis is down", (*site).withoutRedis)
	row("Redis hangs", (*site).withHangingRedis)
	row("PostgreSQL is down", func(s *site) { s.withoutPostgres(s.pg.Kill, s.pg.Restart) })
	row("PostgreSQL hangs", func(s *site) { s.withoutPostgres(s.pg.Pause, s.pg.Resume) })
	row("PostgreSQL is read-only", (*site).readOnly)
	row("both are down", (*site).withoutBoth)
}

func (s *site) withoutRedis() {
	s.redis.Kill()
	s.works()
	s.limits()
	s.status(200, "degraded")
	s.redis.Restart()
	s.healed()
}

func (s *site) withHangingRedis() {
	s.redis.Pause()
	s.t.Cleanup(s.redis.Resume)
	s.works()
	s.redis.Resume()
	s.healed()
}

// withoutPostgres: what is cached is good until an instance has been without news for too long.
func (s *site) withoutPostgres(lose, find func()) {
	inBoth, unknown := s.known(), "sst_"+strings.Repeat("A", 43)
	_, uncached := s.person()
	narrow := s.one
	narrow.http = newHTTP()
	narrow.http.Transport.(*http.Transport).MaxConnsPerHost = 1
	lose()
	lost := time.Now()
	for _, c := range []caller{s.one, s.other} { // from memory, and from Redis
		a := c.validate(s.t.Context(), inBoth)
		if valid, _ := a.valid(); !valid && time.Since(lost) < maxBlind-time.Second {
			s.t.Errorf("a cached session: %v", a)
		}
	}
	slow := make(chan answer)
	go func() { slow <- narrow.login(context.Background(), "person1", password) }()
	s.refused(inBoth, "")
	if a := <-slow; a.status != http.StatusServiceUnavailable {
		s.t.Errorf("%v, want 503", a)
	}
	if err := s.one.isValid(s.t.Context(), unknown, false); err != nil { // it has no checksum, so nobody need ask
		s.t.Error(err)
	}
	<-time.After(time.Until(lost.Add(maxBlind + 300*time.Millisecond))) // the last news may have come just before
	for range 3 {
		if err := s.refuses(inBoth, uncached); err != nil {
			s.t.Error(err)
		}
	}
	s.status(503, "unavailable")
	find()
	s.healed(inBoth, uncached)
	narrow.as(inBoth).must(s.t, 200, "GET", "/v1/users/me", nil) // on the connection that has seen the outage
}

func (s *site) readOnly() {
	token := s.known()
	s.pg.ReadOnly(true)
	for _, c := range []caller{s.one, s.other} {
		if err := c.isValid(s.t.Context(), token, true); err != nil {
			s.t.Error(err)
		}
		c.as(token).must(s.t, 200, "GET", "/v1/users/me", nil)
		c.as(token).must(s.t, 200, "GET", "/v1/sessions", nil)
		c.as(token).must(s.t, 200, "GET", "/v1/streams", nil)
	}
	s.refused(token, "database_read_only")
	s.pg.ReadOnly(false)
	s.healed(token)
}

func (s *site) withoutBoth() {
	token := s.known()
	s.redis.Kill()
	s.pg.Kill()
	harness.Eventually(s.t, maxBlind, "nobody is let in", func() error { return s.refuses(token) })
	for range 5 {
		if err := s.refuses(token); err != nil {
			s.t.Error(err)
		}
	}
	s.refused(token, "")
	s.pg.Restart()
	s.redis.Restart()
	s.healed(token)
}
