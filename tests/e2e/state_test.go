package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// shared is state that several instances serve.
type shared struct {
	t      *testing.T
	pg     *postgrestest.Instance
	redis  *cachetest.Redis
	http   *http.Client
	config string
	token  string
	nodes  []*sharer
	notes  []string

	starting sync.WaitGroup

	mu     sync.Mutex
	faults []string
	acked  map[string]map[int64]string // by note and version, what was written
	counts map[string]int
}

// sharer is an instance over all its lives.
type sharer struct {
	harness.Lines
	stack stack
	name  string
	run   *harness.Program
	url   atomic.Pointer[string]
}

// TestStateOverHTTPIsOneWhateverBreaks is what tests/ledger shows of state sync, through what clients have: merge
// patches with keys, reads with tokens and server-sent events that resume.
func TestStateOverHTTPIsOneWhateverBreaks(t *testing.T) {
	t.Parallel()
	seed := harness.Seed(t)
	s := newShared(t)
	schedules := rand.New(rand.NewPCG(seed, 0))
	steps := harness.Schedule(schedules, 12*time.Second, harness.Servers(s.pg, s.redis), func(r *rand.Rand) harness.Fault {
		n := s.nodes[r.IntN(len(s.nodes))]
		return n.Fault(r, n.name)
	}, func(r *rand.Rand) harness.Fault {
		n := s.nodes[r.IntN(len(s.nodes))]
		if r.IntN(2) == 0 {
			return harness.Fault{What: n.name + " paused", Do: func() { n.run.Pause() }, Undo: func() { n.run.Resume() }}
		}
		return harness.Fault{What: n.name + " killed", Do: func() { n.run.Kill() }, Undo: func() { s.start(n) }}
	})
	t.Logf("faults:%s", harness.Print(steps))
	watching, stopWatching := context.WithCancel(context.Background())
	writing, stopWriting := context.WithCancel(context.Background())
	var watchers, writers sync.WaitGroup
	defer func() { stopWriting(); stopWatching(); writers.Wait(); watchers.Wait() }()
	list := make([]*heard, 3)
	for i := range list {
		list[i] = &heard{token: s.begin(), versions: map[string]int64{}, state: map[string]object{}}
		watchers.Go(func() { s.watch(watching, list[i], rand.New(rand.NewPCG(seed, uint64(100+i)))) })
	}
	for i := range 4 {
		writers.Go(func() { s.write(writing, i, rand.New(rand.NewPCG(seed, uint64(200+i)))) })
	}
	harness.Play(steps)
	for _, n := range s.nodes {
		n.Heal()
	}
	s.starting.Wait()
	<-time.After(2 * time.Second)
	stopWriting()
	writers.Wait()
	s.agree(list)
}

func newShared(t *testing.T) *shared {
	t.Helper()
	pg, redis := postgrestest.Server(t, "max_connections=400"), cachetest.Server(t)
	s := &shared{t: t, pg: pg, redis: redis, http: newHTTP(), acked: map[string]map[int64]string{}, counts: map[string]int{}, config: filepath.Join(t.TempDir(), "rootstream.yaml")}
	if err := os.WriteFile(s.config, []byte("sync:\n  types:\n    - {name: note, write: user}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := stack{dsn: pg.DSN(), redis: redis.URL(), key: masterKey(t), more: append(generous(),
		"ROOTSTREAM_HTTP_TIMEOUT="+requestTimeout.String(), "ROOTSTREAM_POSTGRES_ACQUIRE_TIMEOUT=2s")}
	for i := range 2 {
		n := &sharer{Lines: harness.NewLines(t, pg, redis), stack: base, name: fmt.Sprintf("instance %d", i)}
		n.stack.dsn, n.stack.redis = harness.Through(t, base.dsn, n.ToPostgres), harness.Through(t, base.redis, n.ToRedis)
		s.start(n)
		s.nodes = append(s.nodes, n)
	}
	s.starting.Wait()
	for _, n := range s.nodes {
		if n.url.Load() == nil {
			t.Fatalf("%s did not start:\n%s", n.name, n.run.Tail())
		}
	}
	one := s.at(s.nodes[0])
	one.must(t, 201, "POST", "/v1/users", object{"username": "ada", "email": "ada@example.org", "password": password})
	s.token, _ = one.signIn(t, "ada")
	for range 4 {
		note := uuid.NewString()
		s.notes = append(s.notes, note)
		if a := one.as(s.token).do(t.Context(), "PATCH", "/v1/state/note/"+note, object{"made": true}, "If-Match", `"0"`); !a.ok() {
			t.Fatal(a)
		}
		s.acked[note] = map[int64]string{1: "made:true"}
	}
	return s
}

// start gives an instance a life; it waits by itself until PostgreSQL is there.
func (s *shared) start(n *sharer) {
	s.t.Helper()
	p := harness.Start(s.t, n.name, []string{"serve", "--listen", "127.0.0.1:0", "--config", s.config}, n.stack.env())
	n.run = p
	s.starting.Go(func() {
		if url, err := p.Await(); err == nil { // else it was killed again, or never agrees in the end
			n.url.Store(&url)
		}
	})
}

// at is who asks an instance.
func (s *shared) at(n *sharer) caller {
	return caller{http: s.http, url: *n.url.Load(), token: s.token}
}

func (s *shared) anywhere(r *rand.Rand) (caller, string) {
	n := s.nodes[r.IntN(len(s.nodes))]
	return s.at(n), n.name
}

// begin is a token of now: where watchers of all that follows begin.
func (s *shared) begin() string {
	a := s.at(s.nodes[0]).must(s.t, 200, "GET", "/v1/state/note/"+s.notes[0], nil)
	return a.body.str("token")
}

func (s *shared) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) < 20 {
		s.faults = append(s.faults, fmt.Sprintf(format, args...))
	}
}

func (s *shared) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// write sets a field of its own to one number after the other, each until it is acknowledged.
func (s *shared) write(ctx context.Context, i int, r *rand.Rand) {
	field := fmt.Sprintf("w%d", i)
	for n := 1; ctx.Err() == nil; n++ {
		path := "/v1/state/note/" + s.notes[r.IntN(len(s.notes))]
		for begun := time.Now(); ; <-time.After(harness.Between(r, 10, 100)) {
			c, at := s.anywhere(r)
			a := c.do(context.Background(), "PATCH", path, object{field: n}, "If-Match", "*", "Idempotency-Key", fmt.Sprintf("%s-%d", field, n))
			s.count(fmt.Sprintf("patch %d", a.status))
			if a.ok() {
				s.acknowledged(path, fmt.Sprintf("%s:%d", field, n), a, r)
				break
			}
			if a.status != 0 && a.status != http.StatusServiceUnavailable || time.Since(begun) > time.Minute {
				s.fault("%s: %v", at, a)
				return
			}
		}
		<-time.After(harness.Between(r, 1, 30))
	}
}

// acknowledged notes what was stored, and reads it with its token anywhere.
func (s *shared) acknowledged(path, what string, a answer, r *rand.Rand) {
	version := a.version()
	note := path[strings.LastIndex(path, "/")+1:]
	s.mu.Lock()
	if was, twice := s.acked[note][version]; twice {
		s.t.Errorf("version %d of %s was acknowledged for %s and %s", version, note, was, what)
	}
	s.acked[note][version] = what
	s.mu.Unlock()
	c, at := s.anywhere(r)
	seen := c.do(context.Background(), "GET", path, nil, "X-State-Token", a.header.Get("X-State-Token"))
	s.count(fmt.Sprintf("get %d", seen.status))
	if seen.ok() && seen.version() < version || seen.status == http.StatusNotFound {
		s.fault("%s reads with the token of version %d: %v", at, version, seen)
	}
}

func (a answer) version() int64 {
	v, _ := a.body["version"].(float64)
	return int64(v)
}

// heard is what a watcher knows.
type heard struct {
	mu       sync.Mutex
	token    string
	versions map[string]int64
	state    map[string]object
}

// watch watches, now here and now there, and resumes where it was.
func (s *shared) watch(ctx context.Context, h *heard, r *rand.Rand) {
	for ; ctx.Err() == nil; <-time.After(harness.Between(r, 10, 200)) {
		c, at := s.anywhere(r)
		part, leave := context.WithTimeout(ctx, harness.Between(r, 500, 4000))
		status, err := s.events(part, c, h, at)
		leave()
		s.count(fmt.Sprintf("watch %d", status))
		if err != nil {
			s.fault("%s: %v", at, err)
		}
	}
}

func (s *shared) events(ctx context.Context, c caller, h *heard, at string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/v1/watch?topics=note.*", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Last-Event-ID", h.token)
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil // it is broken, or this visit is over
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		if resp.StatusCode != http.StatusServiceUnavailable {
			return resp.StatusCode, errors.New(resp.Status)
		}
		return resp.StatusCode, nil
	}
	lines := bufio.NewScanner(resp.Body)
	var name, id, data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "id":
			id = value
		case "data":
			data += value
		case "":
			if lines.Text() != "" {
				continue // a comment
			}
			if data != "" {
				s.hear(h, at, name, data)
			}
			if id != "" {
				h.token = id
			}
			name, id, data = "", "", ""
		}
	}
	return resp.StatusCode, nil
}

// hear takes one event.
func (s *shared) hear(h *heard, at, name, data string) {
	var e struct {
		ID      string
		Version int64
		First   int64 `json:"first_version"`
		Data    struct{ Doc, Patch object }
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil || name != "note.changed" {
		s.fault("%s tells %q with %s: %v", at, name, data, err)
		return
	}
	s.count("events")
	h.mu.Lock()
	defer h.mu.Unlock()
	have := max(1, h.versions[e.ID]) // they were made before anybody watched
	if e.Version != have+1 || e.First != 0 {
		s.fault("%s tells version %d to %d of %s after %d", at, e.First, e.Version, e.ID, have)
	}
	if h.state[e.ID] == nil {
		h.state[e.ID] = object{"made": true}
	}
	maps.Copy(h.state[e.ID], e.Data.Patch)
	h.versions[e.ID] = e.Version
}

// agree holds the log, every instance and every watcher against what was acknowledged.
func (s *shared) agree(list []*heard) {
	t := s.t
	t.Helper()
	total := 0
	for _, note := range s.notes {
		rows := s.log(note)
		total += len(rows)
		state := object{}
		for i, r := range rows {
			if what := s.acked[note][int64(i+1)]; r.version != int64(i+1) || !r.has(what) {
				t.Errorf("version %d of %s, the %d. in the log, is %v; acknowledged was %q", r.version, note, i+1, r.data, what)
			}
			maps.Copy(state, r.data)
		}
		if len(rows) != len(s.acked[note]) {
			t.Errorf("%s has %d versions, %d were acknowledged", note, len(rows), len(s.acked[note]))
		}
		for _, n := range s.nodes {
			harness.Eventually(t, patience, n.name+" agrees", func() error {
				a := s.at(n).do(t.Context(), "GET", "/v1/state/note/"+note, nil)
				have, _ := a.body["state"].(map[string]any)
				return errors.Join(want("the version", a.version(), int64(len(rows))), want("the state", fmt.Sprint(have), fmt.Sprint(map[string]any(state))))
			})
		}
		for i, h := range list {
			harness.Eventually(t, patience, fmt.Sprintf("watcher %d has heard everything", i), func() error {
				h.mu.Lock()
				defer h.mu.Unlock()
				return errors.Join(want("the version", h.versions[note], int64(len(rows))), want("the state", fmt.Sprint(h.state[note]), fmt.Sprint(state)))
			})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(s.counts)) {
		t.Logf("%s: %d", what, s.counts[what])
	}
	for _, f := range s.faults {
		t.Error(f)
	}
	if total < 100 || s.counts["events"] < total {
		t.Errorf("only %d changes, %d events: the test shows nothing", total, s.counts["events"])
	}
}

// change is an event in the log.
type change struct {
	version int64
	data    object
}

func (c change) has(what string) bool {
	field, value, _ := strings.Cut(what, ":")
	return fmt.Sprint(c.data[field]) == value
}

func (s *shared) log(note string) []change {
	s.t.Helper()
	c, err := pgx.Connect(s.t.Context(), s.pg.DSN())
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	rows, _ := c.Query(s.t.Context(), `select version, coalesce(data->'doc', data->'patch') from events
		where aggregate_type = 'note' and aggregate_id = $1 order by version`, note)
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (change, error) {
		var out change
		failed := r.Scan(&out.version, &out.data)
		return out, failed
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}
