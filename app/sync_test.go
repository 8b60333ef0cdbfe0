package app_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/app/apptest"
	"rootstream/app/config"
	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
)

// pair are two instances of one system, and somebody signed in.
type pair struct {
	t     *testing.T
	flags apptest.Settings
	a, b  string // URLs
	one   *instance
	token string
}

func newPair(t *testing.T, redis *cachetest.Redis) *pair {
	t.Helper()
	flags := apptest.Settings{
		"postgres.dsn": postgrestest.DSN(t), "redis.url": redis.URL(), "http.timeout": "100s", "auth.hash_queue": "60s",
		"keys.master_key_file": apptest.File(t, "master.key", strings.Repeat("k", 40)),
	}
	apptest.MakeKeyset(t, flags)
	p := &pair{t: t, flags: flags}
	p.one, p.a = p.start()
	_, p.b = p.start()
	name := "ada" + strings.ToLower(uuid.NewString()[:8])
	p.call(p.a, "POST /v1/users", map[string]any{"username": name, "email": name + "@example.org", "password": "correct horse battery"}, "", 201)
	p.token, _ = p.call(p.a, "POST /v1/auth/login", map[string]any{"login": name, "password": "correct horse battery"}, "", 200)["token"].(string)
	return p
}

// start runs one more instance.
func (p *pair) start() (*instance, string) {
	p.t.Helper()
	listen := apptest.FreeAddress(p.t)
	file := apptest.File(p.t, "types.yaml", "sync:\n  types:\n    - {name: note, write: user}\n    - {name: mood, class: volatile, merge: sum, write: user}\n")
	cfg, err := config.Load(config.Source{File: file, Flags: apptest.With(p.flags, apptest.Settings{"http.listen": listen})})
	if err != nil {
		p.t.Fatal(err)
	}
	i := serveConfig(p.t, cfg)
	i.stdout.await(p.t, "rootstream is ready")
	return i, "http://" + listen
}

func (p *pair) call(url, what string, body any, match string, want int) map[string]any {
	p.t.Helper()
	method, path, _ := strings.Cut(what, " ")
	raw, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, url+path, bytes.NewReader(raw))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	if match != "" {
		req.Header.Set("If-Match", match)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		p.t.Fatalf("%s %s: %d %v %s", method, path, resp.StatusCode, err, b)
	}
	answer := map[string]any{}
	_ = json.Unmarshal(b, &answer)
	return answer
}

// sse is one event.
type sse struct {
	name, id string
	data     map[string]any
}

// watch follows an instance until the test ends or stop is called.
func (p *pair) watch(url, topics, from string) (events <-chan sse, stop func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/watch?topics="+topics, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Last-Event-ID", from)
	resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // the goroutine closes it
	if err != nil || resp.StatusCode != 200 {
		p.t.Fatalf("watch: %v %v", resp, err)
	}
	out, begun := make(chan sse, 10_000), make(chan struct{})
	go func() {
		defer close(out)
		defer func() { _ = resp.Body.Close() }()
		var e sse
		began := false
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
			case "event":
				e.name = value
			case "id":
				e.id = value
			case "data":
				_ = json.Unmarshal([]byte(value), &e.data)
			case "":
				if !began && e.id != "" {
					close(begun)
					began = true
				}
				if e.name != "" {
					out <- e
				}
				e = sse{}
			}
		}
	}()
	if from == "" {
		<-begun
	}
	p.t.Cleanup(cancel)
	return out, cancel
}

func next(t *testing.T, events <-chan sse) sse {
	t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(time.Minute):
		t.Fatal("no event came")
	}
	return sse{}
}

func (p *pair) note(url, id string, n int) map[string]any {
	p.t.Helper()
	match := "*"
	if n == 0 {
		match = `"0"`
	}
	return p.call(url, "PATCH /v1/state/note/"+id, map[string]any{"n": n}, match, 200)
}

func TestTwoInstancesShareState(t *testing.T) {
	t.Parallel()
	p := newPair(t, cachetest.Server(t))
	events, _ := p.watch(p.b, "note.*", "")
	id := uuid.NewString()
	for n := range 10 {
		token, _ := p.note(p.a, id, n)["token"].(string)
		if got := p.call(p.b, "GET /v1/state/note/"+id+"?token="+token, nil, "", 200); got["version"] != float64(n+1) {
			t.Errorf("the other instance has version %v, not %d", got["version"], n+1)
		}
		if e := next(t, events); e.name != "note.changed" || e.data["version"] != float64(n+1) {
			t.Errorf("%+v", e)
		}
	}
	// What rooms do in transactions of their own is told too.
	streams, _ := p.watch(p.b, "stream.*", "")
	stream := p.call(p.a, "POST /v1/streams", map[string]any{"name": "s"}, "", 201)
	if e := next(t, streams); e.name != "stream.created" || e.data["id"] != stream["id"] {
		t.Errorf("%+v", e)
	}
	// Volatile state is what both say.
	moods, _ := p.watch(p.b, "mood.*", "")
	p.call(p.a, "PATCH /v1/state/mood/"+id, map[string]any{"n": 2}, "", 200)
	p.call(p.b, "PATCH /v1/state/mood/"+id, map[string]any{"n": 3}, "", 200)
	for {
		data, _ := next(t, moods).data["data"].(map[string]any)
		if fmt.Sprint(data["n"]) == "5" {
			break
		}
	}
	p.call(p.a, "PATCH /v1/state/mood/"+id, map[string]any{}, "", 200)
	for {
		data, _ := next(t, moods).data["data"].(map[string]any)
		if fmt.Sprint(data["n"]) == "3" {
			break
		}
	}
}

// A client goes from instance to instance while Redis loses everything and an
// instance is replaced; it misses nothing and hears nothing twice.
func TestAWatchResumesElsewhereWhateverIsLost(t *testing.T) {
	t.Parallel()
	redis := cachetest.Server(t)
	p := newPair(t, redis)
	id, last, seen := uuid.NewString(), "", 0
	events, stop := p.watch(p.a, "note.*", "")
	follow := func(until int) {
		t.Helper()
		for seen < until {
			e := next(t, events)
			if e.name != "note.changed" || e.data["version"] != float64(seen+1) {
				t.Fatalf("after %d: %+v", seen, e)
			}
			seen, last = seen+1, e.id
		}
	}
	n := 0
	add := func(url string) {
		t.Helper()
		for range 5 {
			p.note(url, id, n)
			n++
		}
	}
	add(p.b)
	follow(3) // not all
	stop()
	add(p.a)
	events, stop = p.watch(p.b, "note.*", last)
	follow(n)
	stop()

	add(p.a)
	redis.Kill() // everything in it is lost
	add(p.a)
	redis.Restart()
	redis.FlushAll()
	events, stop = p.watch(p.b, "note.*", last)
	follow(n)
	add(p.a)
	follow(n)
	stop()

	add(p.b)
	p.one.stop(t)
	add(p.b)
	p.one, p.a = p.start()
	events, _ = p.watch(p.a, "note.*", last)
	follow(n)
	add(p.b)
	follow(n)
}

// A stop ends watches cleanly instead of waiting for them.
func TestAStopEndsWatches(t *testing.T) {
	t.Parallel()
	p := newPair(t, cachetest.Server(t))
	events, _ := p.watch(p.a, "note.*", "")
	p.one.stop(t)
	if e, open := <-events; open {
		t.Errorf("%+v", e)
	}
}
