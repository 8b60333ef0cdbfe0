package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
)

// tallies counts answers by status and keeps how long they took.
type tallies struct {
	mu    sync.Mutex
	took  []time.Duration
	count map[int]int
}

func (s *tallies) add(a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil {
		s.count = map[int]int{}
	}
	s.count[a.status]++
	s.took = append(s.took, a.took)
}

func (s *tallies) String() string {
	slices.Sort(s.took)
	return fmt.Sprintf("%d requests %v, p50 %v, p99 %v, max %v", len(s.took), s.count,
		quantile(s.took, 0.5).Round(time.Microsecond), quantile(s.took, 0.99).Round(time.Microsecond), quantile(s.took, 1).Round(time.Millisecond))
}

// crowd is one instance with the default pool of 20 connections, and accounts that are signed in.
func crowd(t *testing.T) (caller, []string) {
	t.Helper()
	st := stack{dsn: postgrestest.DSN(t), redis: cachetest.Server(t).URL(), key: masterKey(t), more: append(generous(),
		"ROOTSTREAM_SESSION_LIMIT=1000", "ROOTSTREAM_HTTP_TIMEOUT="+requestTimeout.String(), "ROOTSTREAM_POSTGRES_MAX_CONNS=20")}
	c := newCaller(st.serve(t, "serve").url)
	var tokens []string
	for i := range 4 {
		name := fmt.Sprintf("person%d", i)
		c.must(t, 201, "POST", "/v1/users", object{"username": name, "email": name + "@example.org", "password": password})
		token, _ := c.signIn(t, name)
		tokens = append(tokens, token)
	}
	return c, tokens
}

func TestALoginStormLeavesTheSignedInAlone(t *testing.T) {
	t.Parallel()
	c, tokens := crowd(t)
	var logins, validations tallies
	storm := make(chan struct{})
	go func() {
		defer close(storm)
		parallel(200, func(i int) {
			a := c.login(context.Background(), fmt.Sprintf("person%d", i%len(tokens)), password)
			logins.add(a)
			if err := a.fault(); err != nil {
				t.Error(err)
			}
			if a.status != http.StatusOK && a.status != http.StatusServiceUnavailable && a.status != http.StatusTooManyRequests {
				t.Error(a)
			}
		})
	}()
	parallel(2, func(i int) {
		for n := i; ; n++ {
			select {
			case <-storm:
				return
			case <-time.After(time.Millisecond):
			}
			a := c.validate(context.Background(), tokens[n%len(tokens)])
			validations.add(a)
			if valid, _ := a.valid(); !valid {
				t.Errorf("during the storm: %v", a)
			}
		}
	})
	t.Logf("logins: %v", &logins)
	t.Logf("validations meanwhile: %v", &validations)
	if logins.count[http.StatusOK] == 0 || len(validations.took) == 0 {
		t.Error("nobody got in, or nobody was asked about")
	}
	token, _ := c.signIn(t, "person0") // and afterwards all is as before
	if err := c.isValid(t.Context(), token, true); err != nil {
		t.Error(err)
	}
}

func TestSixTimesAsManyClientsAsConnectionsAreServed(t *testing.T) {
	t.Parallel()
	c, tokens := crowd(t)
	var all tallies
	until := time.Now().Add(2 * time.Second)
	parallel(120, func(i int) {
		own := c.as(tokens[i%len(tokens)])
		for n := i; time.Now().Before(until); n++ {
			var a answer
			switch n % 5 {
			case 0:
				a = own.do(context.Background(), "GET", "/v1/users/me", nil)
			case 1:
				a = own.do(context.Background(), "GET", "/v1/sessions", nil)
			case 2:
				a = own.do(context.Background(), "PATCH", "/v1/users/me", object{"display_name": fmt.Sprint(n)})
			case 3:
				a = own.do(context.Background(), "POST", "/v1/streams", object{"name": "on air"})
			case 4:
				a = own.do(context.Background(), "GET", "/v1/users/me/audit?limit=5", nil)
			}
			all.add(a)
			if err := a.fault(); err != nil {
				t.Error(err)
			}
			if !a.ok() && a.status != http.StatusServiceUnavailable {
				t.Error(a)
			}
		}
	})
	t.Logf("%v", &all)
	if all.count[http.StatusOK] == 0 || all.count[http.StatusCreated] == 0 {
		t.Errorf("statuses %v: nothing was read or nothing written", all.count)
	}
	c.as(tokens[0]).must(t, 200, "GET", "/readyz", nil)
}
