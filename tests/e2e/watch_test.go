package e2e_test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// watching is a connection to /v1/watch; ended is closed when the server has ended it.
type watching struct{ ended chan struct{} }

func (c caller) watch(t *testing.T, topics string) watching {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+"/v1/watch?topics="+topics, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	w, began := watching{make(chan struct{})}, make(chan error, 1)
	go func() {
		defer close(w.ended)
		res, err := (&http.Client{}).Do(r)
		if err != nil {
			began <- err
			return
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			began <- errors.New(res.Status)
			return
		}
		_, err = res.Body.Read(make([]byte, 1))
		began <- err
		_, _ = io.Copy(io.Discard, res.Body)
	}()
	if err := <-began; err != nil {
		t.Fatalf("watch: %v", err)
	}
	return w
}

// TestARevokedSessionLosesItsWatchAtAnotherInstance revokes at one instance what watches at another. That takes less
// than a second, which a busy machine gets three chances to show; without Redis as long as revocation itself does.
func TestARevokedSessionLosesItsWatchAtAnotherInstance(t *testing.T) {
	t.Parallel()
	pg, redis := postgrestest.Server(t), cachetest.Server(t)
	s := stack{dsn: pg.DSN(), redis: redis.URL(), key: masterKey(t), more: generous()}
	one, other := newCaller(s.serve(t, "one").url), newCaller(s.serve(t, "other").url)
	one.must(t, 201, "POST", "/v1/users", object{"username": "ada", "email": "ada@example.org", "password": password})
	stays, _ := one.signIn(t, "ada")
	kept := other.as(stays).watch(t, "stream.*")
	lost := func() time.Duration {
		t.Helper()
		token, session := one.signIn(t, "ada")
		w := other.as(token).watch(t, "stream.*")
		one.as(stays).must(t, 204, "DELETE", "/v1/sessions/"+session, nil)
		begun := time.Now()
		select {
		case <-w.ended:
			return time.Since(begun)
		case <-time.After(patience):
			t.Fatal("it still watches")
			return 0
		}
	}
	took := lost()
	for range 2 {
		if took > time.Second {
			took = lost()
		}
	}
	if took > time.Second {
		t.Errorf("it watched for another %v", took)
	}
	redis.Pause()
	lost()
	redis.Resume()
	select {
	case <-kept.ended:
		t.Error("who was not revoked lost the watch")
	default:
	}
	harness.Eventually(t, patience, "the session that stays is good", func() error { return other.isValid(t.Context(), stays, true) })
}
