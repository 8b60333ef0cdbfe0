package ledger_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"rootstream/event"
	"rootstream/tests/harness"
)

// watcher watches and resumes where it was cut off, at the same instance or at any.
type watcher struct {
	*world
	name     string
	dice     *rand.Rand
	home     *node // nil: anywhere
	conflate bool  // slow, and satisfied with the newest
	topics   string

	mu    sync.Mutex
	token string
	known map[event.Ref]document
	heard map[event.Ref]int // what is said of pulses, since this watch began
}

func (w *watcher) watch(ctx context.Context) {
	for ctx.Err() == nil {
		n, visit := w.home, context.CancelFunc(func() {})
		part := ctx
		if n == nil {
			n = w.anywhere(w.dice)
			part, visit = context.WithTimeout(ctx, harness.Between(w.dice, 500, 4000))
		}
		q := url.Values{"from": {w.token}, "topics": {w.topics}}
		if w.conflate {
			q["overflow"], q["buffer"], q["pause"] = []string{"conflate"}, []string{"64"}, []string{"3ms"}
		}
		resumed := maps.Clone(w.known)
		err := n.watch(part, q, func(t told) bool { return w.hear(n, t, resumed) })
		if err == nil {
			w.count("watches that were cut")
		}
		visit()
		w.count("watches")
		<-time.After(harness.Between(w.dice, 1, 100))
	}
}

// hear takes one line. resumed is what was known when this watch began.
func (w *watcher) hear(n *node, t told, resumed map[event.Ref]document) bool {
	if t.End != "" {
		if t.End != "subscriber_slow" && !strings.HasPrefix(t.End, "database_") {
			w.fault("%s at %s ended: %s", w.name, n.name, t.End)
		}
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.token = t.Token
	if t.Ready {
		w.look(n)
		return true
	}
	if t.Reset != "" {
		w.fault("%s at %s is told to read everything again (%s), but nothing was lost", w.name, n.name, t.Reset)
		return true
	}
	if t.Version == 0 {
		w.heard[t.Ref] = w.viewers(n, t.Data)
		w.count("pulses heard")
		return true
	}
	w.count("changes heard")
	have := w.known[t.Ref]
	again := w.conflate && have.Version == resumed[t.Ref].Version && t.First <= have.Version // told once more after a resume
	if t.Lost != 0 || t.First != have.Version+1 && !again || t.First > t.Version || t.First < t.Version && !w.conflate {
		w.fault("%s at %s hears %s version %d to %d after %d (%d lost)", w.name, n.name, t.Ref, t.First, t.Version, have.Version, t.Lost)
	}
	if t.Version <= have.Version {
		return true
	}
	next := document{Version: t.Version, Deleted: ended(t.Name)}
	if !w.conflate {
		var err error
		if next.Data, err = fold(have.Data, t.Name, t.Data); err != nil {
			w.fault("%s: %v", w.name, err)
		}
	}
	w.known[t.Ref] = next
	if w.dice.IntN(50) == 0 {
		w.readAfter(n, t)
	}
	return true
}

// readAfter reads with the token of a change, anywhere.
func (w *watcher) readAfter(from *node, t told) {
	n := w.anywhere(w.dice)
	var d document
	if err := n.call(context.Background(), "get", read{t.Ref, t.Token}, &d); err == nil && d.Version < t.Version {
		w.fault("%s reads version %d of %s with the token of version %d from %s", n.name, d.Version, t.Ref, t.Version, from.name)
	}
}

// state is what the watcher knows.
func (w *watcher) state() map[event.Ref]document {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.known)
}

// ended reports whether an event of that name ends its entity.
func ended(name string) bool { return strings.HasSuffix(name, ".deleted") }

// fold applies what an event of an update says, as its documentation has it: a document, or an RFC 7396 patch. The
// fields of these tests are all plain and none is ever removed by itself.
func fold(data map[string]any, name string, raw json.RawMessage) (map[string]any, error) {
	if ended(name) {
		return map[string]any{}, nil
	}
	var e struct{ Doc, Patch map[string]any }
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	if err := dec.Decode(&e); err != nil || e.Doc == nil == (e.Patch == nil) {
		return data, fmt.Errorf("an event with %s: %w", raw, err)
	}
	if e.Doc != nil {
		return e.Doc, nil
	}
	next := maps.Clone(data)
	if next == nil {
		next = map[string]any{}
	}
	maps.Copy(next, e.Patch)
	return next, nil
}
