package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"rootstream/event"
	"rootstream/tests/harness"
)

// outcome is what a writer knows of an update in the end.
type outcome int

const (
	unknown outcome = iota
	stored
	failed
)

// entry is one update in the ledger.
type entry struct {
	update
	outcome outcome
	got     document // if it was stored
	err     error    // the last one
}

// ledger is what writers were told, and what was seen that must not be.
type ledger struct {
	began time.Time

	mu      sync.Mutex
	entries []*entry
	faults  []string
	more    int // faults beyond those
	counts  map[string]int
}

func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) >= 20 {
		l.more++
		return
	}
	l.faults = append(l.faults, fmt.Sprintf("%7.3fs ", time.Since(l.began).Seconds())+fmt.Sprintf(format, args...))
}

func (l *ledger) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what]++
}

// writer sends numbered updates through all instances.
type writer struct {
	*world
	dice  *rand.Rand
	field string
	n     int
	seen  map[event.Ref]int64 // versions
}

func (w *writer) write(ctx context.Context, refs []event.Ref) {
	for ctx.Err() == nil {
		w.n++
		ref := refs[min(w.dice.IntN(len(refs)), w.dice.IntN(len(refs)))] // some are busier
		e := &entry{update: update{Ref: ref, Key: fmt.Sprintf("%s:%d", w.field, w.n), Field: w.field, Value: w.n}}
		switch w.dice.IntN(20) {
		case 0, 1, 2, 3:
			e.Expect = new(w.seen[ref])
		case 4:
			e.Expect = new(w.seen[ref] + 1 + w.dice.Int64N(2))
		case 5:
			e.Field = "fixed"
		case 6:
			e.Delete = ref.Type != "merged" // what is merged there must have been something
		}
		w.send(ctx, e)
		w.mu.Lock()
		w.entries = append(w.entries, e)
		w.mu.Unlock()
		if e.outcome == stored {
			w.seen[ref] = e.got.Version
			w.readBack(ctx, e)
		}
		<-time.After(harness.Between(w.dice, 1, 40))
	}
}

// send sends an update until its outcome is known, or for long enough. The same key makes a retry safe.
func (w *writer) send(ctx context.Context, e *entry) {
	ctx = context.WithoutCancel(ctx)
	maybe := false // an attempt may have been stored, or may still be
	what := "update"
	if e.Delete {
		what = "delete"
	}
	for begun := time.Now(); time.Since(begun) < 20*time.Second; <-time.After(harness.Between(w.dice, 5, 200)) {
		n := w.anywhere(w.dice)
		e.err = n.call(ctx, what, e.update, &e.got)
		f, answered := errors.AsType[*failure](e.err)
		switch {
		case e.err == nil:
			e.outcome = stored
			w.count("stored")
			if e.Delete {
				w.count("deleted")
			}
			w.acknowledged(e, n)
			return
		case !answered || f.Code == "commit_unknown":
			if !errors.Is(e.err, errLost) && !answered {
				w.fault("%s answers: %v", n.name, e.err)
			}
			maybe = true
			w.count("unknown, so sent again")
		case !f.Down: // refused for what it is
			gone := e.Delete && f.Code == "no_state"
			if ahead := e.Expect != nil && f.Actual <= *e.Expect; !maybe || !ahead && !gone {
				e.outcome = failed
			}
			w.count(f.Code)
			if f.Code != "version_conflict" && e.Field != "fixed" && !gone || f.Code == "version_conflict" && e.Expect == nil {
				w.fault("%s refuses %s: %v", n.name, e.Key, f)
			}
			return
		case !maybe && w.dice.IntN(3) == 0: // it says that nothing was stored: let us see
			e.outcome = failed
			w.count("given up: " + f.Code)
			return
		default:
			w.count("down, so sent again: " + f.Code)
		}
	}
	if !maybe {
		e.outcome = failed
	}
	w.count("given up")
}

// acknowledged holds the answer to an update against itself.
func (w *writer) acknowledged(e *entry, n *node) {
	if e.Field == "fixed" {
		w.fault("%s stored %s, which changes a reserved field", n.name, e.Key)
	}
	if next := int64(1); e.Expect != nil && e.got.Version != *e.Expect+next {
		if e.Ref.Type != "merged" || e.got.Version < *e.Expect+next {
			w.fault("%s stored %s as version %d, though version %d was expected", n.name, e.Key, e.got.Version, *e.Expect)
		}
		w.count("merged")
	}
	if e.Delete != e.got.Deleted {
		w.fault("%s answers to %s with a document that is deleted: %v", n.name, e.Key, e.got.Deleted)
	}
	if e.Delete {
		return
	}
	if e.got.count() != e.got.Version || number(e.got.Data[e.Field]) != int64(w.n) {
		w.fault("%s answers to %s with version %d of %v", n.name, e.Key, e.got.Version, e.got.Data)
	}
}

// readBack reads with the token of an update, anywhere.
func (w *writer) readBack(ctx context.Context, e *entry) {
	n := w.anywhere(w.dice)
	var d document
	if err := n.call(ctx, "get", read{e.Ref, e.got.Token}, &d); err != nil {
		if f, ok := errors.AsType[*failure](err); ok && !f.Down {
			w.fault("%s reads %s with the token of version %d: %v", n.name, e.Ref, e.got.Version, f)
		}
		w.count("reads that failed")
		return
	}
	w.count("reads with a token")
	anew := e.Delete || d.Deleted || number(d.Data["born"]) > e.got.Version // it has been deleted since
	if d.Version < e.got.Version || !anew && number(d.Data[w.field]) < int64(w.n) || !d.Deleted && d.count() != d.Version {
		w.fault("%s reads version %d of %s with the token of version %d: %v", n.name, d.Version, e.Ref, e.got.Version, d.Data)
	}
}

// count is the version that a document says it is.
func (d document) count() int64 { return number(d.Data["n"]) }

func number(v any) int64 {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return i
}
