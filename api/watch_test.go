package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/api"
	"rootstream/event"
	"rootstream/postgres"
	"rootstream/session"
	"rootstream/user"
)

// patienceWithEvents is how long an event may take on a busy machine.
const patienceWithEvents = time.Minute

// told is one event as a client reads it.
type told struct {
	name, id string
	data     object
}

// watcher reads a connection to /v1/watch.
type watcher struct {
	tb     testing.TB
	events chan told
	close  func()
	ended  chan struct{}
	last   string // the id of the last event, or the one to begin with
}

// watch opens a connection; what it is told comes through events, in order.
func (w *world) watch(token, topics, from string) *watcher {
	w.tb.Helper()
	ctx, cancel := context.WithCancel(w.tb.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", w.url+"/v1/watch?topics="+url.QueryEscape(topics), nil)
	must(w.tb, err)
	as(token)(r)
	if from != "" {
		r.Header.Set("Last-Event-ID", from)
	}
	resp, err := client.Do(r) //nolint:bodyclose // read closes it
	must(w.tb, err)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		w.tb.Fatalf("watch %s: %d %v %s", topics, resp.StatusCode, resp.Header, b)
	}
	x := &watcher{tb: w.tb, events: make(chan told, 10_000), close: cancel, ended: make(chan struct{}), last: from}
	begun := make(chan struct{})
	go x.read(resp.Body, begun)
	w.tb.Cleanup(func() { cancel(); <-x.ended })
	if from == "" {
		<-begun
	}
	return x
}

func (x *watcher) read(body io.ReadCloser, begun chan struct{}) {
	defer close(x.ended)
	defer func() { _ = body.Close() }()
	var e told
	for lines := bufio.NewScanner(body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				x.tb.Errorf("data is no JSON: %s", value)
			}
		case "":
			if begun != nil && e.id != "" {
				x.last = e.id
				close(begun)
				begun = nil
			}
			if e.name != "" {
				x.events <- e
			}
			e = told{}
		}
	}
}

// next is the next event.
func (x *watcher) next() told {
	x.tb.Helper()
	select {
	case e := <-x.events:
		x.last = e.id
		if e.id == "" {
			x.tb.Errorf("an event without an id: %+v", e)
		}
		return e
	case <-time.After(patienceWithEvents):
		x.tb.Fatal("no event came")
	case <-x.ended:
		select {
		case e := <-x.events:
			x.last = e.id
			return e
		default:
			x.tb.Fatal("the connection ended")
		}
	}
	return told{}
}

// want reads the next event, which must have this name and be of this entity.
func (x *watcher) want(name, id string) told {
	x.tb.Helper()
	e := x.next()
	if e.name != name || e.data["id"] != id || e.data["name"] != name {
		x.tb.Fatalf("%+v, want %s of %s", e, name, id)
	}
	return e
}

func (x *watcher) end() {
	x.tb.Helper()
	select {
	case <-x.ended:
	case <-time.After(patienceWithEvents):
		x.tb.Fatal("the connection does not end")
	}
}

func (w *world) note(token, id string, n int) {
	w.tb.Helper()
	match := "*"
	if n == 0 {
		match = `"0"`
	}
	w.do("PATCH", "/v1/state/note/"+id, object{"n": n}, as(token), ifMatch(match)).want(200)
}

func TestWatchTellsWhatHappensInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	token, id, other := w.token("ada"), uuid.NewString(), uuid.NewString()
	x := w.watch(token, "note."+id, "")
	for n := range 20 {
		w.note(token, other, n)
		w.note(token, id, n)
	}
	for n := range 20 {
		e := x.want("note.changed", id)
		if e.data["version"] != float64(n+1) || e.data["type"] != "note" || e.data["at"] == nil || e.data["data"] == nil {
			t.Errorf("%d: %+v", n, e)
		}
	}
	stream := w.do("POST", "/v1/streams", object{"name": "s"}, as(token)).want(201).text("id")
	y := w.watch(token, "stream.*,note.*", "")
	w.do("POST", "/v1/streams/"+stream+"/start", nil, as(token)).want(200)
	y.want("stream.started", stream)
	w.note(token, other, 21)
	y.want("note.changed", other)
}

func TestWatchResumesWithoutLossAndWithoutRepeats(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	token := w.token("ada")
	ids := []string{uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()}
	x := w.watch(token, "note.*", "")
	seen := map[string]float64{}
	write := make(chan struct{})
	go func() {
		defer close(write)
		for n := range 200 {
			w.note(token, ids[n%len(ids)], n/len(ids))
		}
	}()
	for got := range 200 {
		if got%17 == 16 { // leave in the midst of it, and come back
			x.close()
			x = w.watch(token, "note.*", x.last)
		}
		e := x.next()
		id := e.data["id"].(string)
		if e.data["version"] != seen[id]+1 {
			t.Fatalf("after %d: %v of %s, want %v", got, e.data["version"], id, seen[id]+1)
		}
		seen[id]++
	}
	<-write
	// A state is as good a beginning as an event.
	before := w.do("GET", "/v1/state/note/"+ids[0], nil, as(token)).want(200)
	w.note(token, ids[0], 1000)
	w.watch(token, "note."+ids[0], before.text("token")).want("note.changed", ids[0])
	// Who was told nothing yet can resume too.
	silent := w.watch(token, "note."+ids[1], "")
	silent.close()
	w.note(token, ids[1], 1000)
	w.watch(token, "note."+ids[1], silent.last).want("note.changed", ids[1])
}

// TestWhatWasErasedIsNotToldAgain has somebody come back to where they heard of it, and of an event that is sent to many at once.
func TestWhatWasErasedIsNotToldAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, id := w.token("ada"), uuid.New()
	path := "/v1/state/note/" + id.String()
	x := w.watch(token, "note.*", "")
	begun := x.last
	w.do("PATCH", path, object{"word": "secret"}, as(token), ifMatch(`"0"`)).want(200)
	if e := x.next(); !strings.Contains(fmt.Sprint(e.data), "secret") {
		t.Fatalf("told %+v", e)
	}
	must(t, w.db.InTx(t.Context(), func(tx *postgres.Tx) error {
		_, err := w.state.Erase(t.Context(), tx, event.Ref{Type: "note", ID: id})
		return err
	}))
	if e := x.next(); e.name != "note.erased" {
		t.Fatalf("told %+v", e)
	}
	again := w.watch(token, "note.*", begun)
	for n, name := range []string{"note.changed", "note.erased"} {
		if e := again.next(); e.name != name || e.data["version"] != float64(n+1) || strings.Contains(fmt.Sprint(e.data), "secret") {
			t.Errorf("told again: %+v", e)
		}
	}
}

func TestAnUnknownTokenIsAReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, id := w.token("ada"), uuid.NewString()
	x := w.watch(token, "note.*", "made-up")
	if e := x.next(); e.name != "reset" || e.data["reason"] != "unknown" {
		t.Fatalf("%+v", e)
	}
	w.note(token, id, 0)
	x.want("note.changed", id)
	y := w.watch(token, "note.*", x.last)
	w.note(token, id, 1)
	y.want("note.changed", id)
}

func TestWatchRefusesBeforeItBegins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	ada, bob := w.actor("ada", user.RoleUser, 1, false), w.actor("bob", user.RoleUser, 1, false)
	op := w.actor("operator", user.RoleOperator, 1, false)
	hidden := w.do("POST", "/v1/streams", object{"name": "s", "is_public": false}, as(bob.token)).want(201).text("id")
	public := w.do("POST", "/v1/streams", object{"name": "s"}, as(bob.token)).want(201).text("id")
	for topics, status := range map[string]int{
		"user." + ada.user.PublicID.String(): 200, "session." + ada.id.String(): 200, "session.*": 200, "stream.*": 200, "note.*": 200,
		"stream." + public: 200, "mood.*": 200,
		"user." + bob.user.PublicID.String(): 403, "user.*": 403, "*.*": 403, "*." + ada.id.String(): 403, "factor.*": 403,
		"session." + bob.id.String(): 403, "stream." + hidden: 403, "stream." + uuid.NewString(): 403, "stream.*,user.*": 403,
	} {
		path := "/v1/watch?topics=" + topics
		a := w.do("GET", path, nil, as(ada.token))
		if a.status != status {
			t.Errorf("%s: %d, want %d: %s", topics, a.status, status, a.body)
		}
		if status == 403 {
			a.problem(403, "topic_forbidden")
		}
		w.do("GET", path, nil, as(op.token)).want(200)
	}
	many := make([]string, 101)
	for i := range many {
		many[i] = "note." + uuid.NewString()
	}
	w.do("GET", "/v1/watch?topics="+strings.Join(many[:100], ","), nil, as(ada.token)).want(200)
	for _, bad := range []string{strings.Join(many, ","), "", "stream", "stream.x", ".", "*", "Stream.*", "stream.*,", "stream.00000000-0000-0000-0000-000000000000", "stream.*.*"} {
		w.do("GET", "/v1/watch?topics="+bad, nil, as(ada.token)).problem(422, "invalid").names("topics")
	}
	w.do("GET", "/v1/watch?topics=stream.*", nil).problem(401, "unauthenticated")
}

func TestWatchersSeeOnlyWhatIsTheirs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	ada, bob := w.actor("ada", user.RoleUser, 1, false), w.actor("bob", user.RoleUser, 1, false)
	stream := w.do("POST", "/v1/streams", object{"name": "s"}, as(ada.token)).want(201).text("id")
	hidden := w.do("POST", "/v1/streams", object{"name": "s", "is_public": false}, as(ada.token)).want(201).text("id")
	mine, theirs := w.watch(ada.token, "stream.*", ""), w.watch(bob.token, "stream.*", "")
	w.do("POST", "/v1/streams/"+hidden+"/start", nil, as(ada.token)).want(200)
	w.do("POST", "/v1/streams/"+stream+"/start", nil, as(ada.token)).want(200)
	mine.want("stream.started", hidden)
	mine.want("stream.started", stream)
	theirs.want("stream.started", stream)
	// From now on it is nobody's business but the owner's, at once.
	w.do("PATCH", "/v1/streams/"+stream, object{"is_public": false}, as(ada.token)).want(200)
	w.do("POST", "/v1/streams/"+stream+"/stop", nil, as(ada.token)).want(200)
	mine.want("stream.updated", stream)
	mine.want("stream.stopped", stream)
	w.do("PATCH", "/v1/streams/"+stream, object{"is_public": true}, as(ada.token)).want(200)
	mine.want("stream.updated", stream)
	theirs.want("stream.updated", stream)
	w.do("DELETE", "/v1/streams/"+stream, nil, as(ada.token)).want(204)
	mine.want("stream.deleted", stream)
	theirs.want("stream.deleted", stream)
	// Sessions: one's own, and not who signs in elsewhere.
	s := w.watch(bob.token, "session.*", "")
	w.register("carl")
	w.login("carl")
	w.do("PATCH", "/v1/sessions/"+bob.id.String(), object{"device_name": "tv"}, as(bob.token)).want(200)
	s.want("session.renamed", bob.id.String())
}

func TestARevokedSessionLosesItsWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.actor("ada", user.RoleUser, 1, false)
	other := w.session(ada.user, 1, false)
	x, y := w.watch(ada.token, "stream.*", ""), w.watch(other.token, "stream.*", "")
	w.do("DELETE", "/v1/sessions/"+ada.id.String(), nil, as(other.token)).want(204)
	x.end()
	id := w.do("POST", "/v1/streams", object{"name": "s"}, as(other.token)).want(201).text("id")
	y.want("stream.created", id)
	if len(x.events) > 0 {
		t.Errorf("told after it was revoked: %+v", <-x.events)
	}
}

func TestWatchingDoesNotKeepASessionAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.actor("ada", user.RoleUser, 1, false)
	hour := `update sessions set last_activity = last_activity - interval '1 hour', created_at = created_at - interval '1 hour' where public_id = $1`
	_, err := w.db.Exec(t.Context(), hour, ada.id)
	must(t, err)
	for _, quiet := range []bool{true, false} {
		v, err := w.sessions.Validate(t.Context(), ada.token, session.ClientHint{Quiet: quiet})
		must(t, err)
		if recent := time.Since(time.UnixMicro(v.LastActivity)) < 30*time.Minute; recent == quiet {
			t.Errorf("quiet %v: last activity at %v", quiet, time.UnixMicro(v.LastActivity))
		}
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.api.MaxWatches, o.api.MaxWatchesPerAccount = 3, 2 })
	ada, bob := w.token("ada"), w.token("bob")
	path := "/v1/watch?topics=stream.*"
	x := w.watch(ada, "stream.*", "")
	w.watch(ada, "stream.*", "")
	if a := w.do("GET", path, nil, as(ada)).problem(429, "too_many_watches"); a.header.Get("Retry-After") == "" {
		t.Error("nobody says when to try again")
	}
	w.watch(bob, "stream.*", "")
	retryAfter(t, w.do("GET", path, nil, as(bob)).problem(503, "watches_full"))
	x.close()
	x.end()
	for w.do("GET", path, nil, as(bob)).status != 200 { // until the server has noticed
		<-time.After(10 * time.Millisecond)
	}
}

func TestTheServersEndEndsWatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	x := w.watch(token, "note.*", "")
	id := uuid.NewString()
	w.note(token, id, 0)
	x.want("note.changed", id)
	w.api.EndWatches()
	x.end()
	w.watch(token, "note.*", x.last).end()
}

// A server gives a request a time to be read and answered in; whoever watches is beyond that.
func TestWatchOutlivesTheServersTimeouts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.api.RequestTimeout = 2 * time.Second })
	token, id := w.token("ada"), uuid.NewString()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	const short = 500 * time.Millisecond
	srv := &http.Server{Handler: w.api, ReadTimeout: short, WriteTimeout: short, ReadHeaderTimeout: short}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	usual := w.url
	w.url = "http://" + l.Addr().String()
	x := w.watch(token, "note.*", "")
	w.url = usual
	<-time.After(3 * time.Second) // longer than any of them
	w.note(token, id, 0)
	x.want("note.changed", id)
}

// A client that does not read must not hold back one that does, nor keep its place.
func TestASlowClientHoldsNobodyBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	token := w.token("ada")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	srv := &http.Server{Handler: w.api, ReadHeaderTimeout: time.Minute, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		must(t, c.(*net.TCPConn).SetWriteBuffer(4096)) // or the kernel would read for it
		return ctx
	}}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	slow, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	must(t, err)
	must(t, slow.(*net.TCPConn).SetReadBuffer(4096))
	t.Cleanup(func() { _ = slow.Close() })
	_, err = fmt.Fprintf(slow, "GET /v1/watch?topics=note.* HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", token)
	must(t, err)
	fast := w.watch(token, "note.*", "")
	open := func(n int) bool {
		return strings.Contains(string(w.do("GET", "/metrics", nil).body), fmt.Sprintf("\nrootstream_watches %d\n", n))
	}
	for !open(2) {
		<-time.After(10 * time.Millisecond)
	}
	id, long := uuid.NewString(), strings.Repeat("x", 30_000)
	w.note(token, id, 0)
	fast.want("note.changed", id)
	for n := range 20 { // far more than buffers take
		w.do("PATCH", "/v1/state/note/"+id, object{"n": n + 1, "long": long + fmt.Sprint(n)}, as(token), ifMatch("*")).want(200)
		if e := fast.want("note.changed", id); e.data["version"] != float64(n+2) {
			t.Fatalf("%v, want %d", e.data["version"], n+2)
		}
	}
	for end := time.Now().Add(patienceWithEvents); !open(1); <-time.After(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the slow one keeps its place")
		}
	}
}

func TestManyWatchersAreServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient, func(o *option) { o.api = api.Config{MaxWatchesPerAccount: 1000} })
	token, id := w.token("ada"), uuid.NewString()
	watchers := make([]*watcher, 200)
	for i := range watchers {
		watchers[i] = w.watch(token, "note.*", "")
	}
	for n := range 5 {
		w.note(token, id, n)
	}
	for _, x := range watchers {
		for n := range 5 {
			if e := x.want("note.changed", id); e.data["version"] != float64(n+1) {
				t.Fatalf("%v, want %d", e.data["version"], n+1)
			}
		}
	}
}
