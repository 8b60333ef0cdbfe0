package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"rootstream/event"
	"rootstream/statesync"
	"rootstream/tests/harness"
)

// says is what an instance was told to say of pulses, in this life.
type says struct {
	mu     sync.Mutex
	life   int
	number int64
	of     map[event.Ref]int
	unsure map[event.Ref]bool // nobody knows whether it says so
}

// begin is another life, which says nothing.
func (s *says) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life++
	s.of, s.unsure = map[event.Ref]int{}, map[event.Ref]bool{}
}

// next is the life in which it is told something, and the number of that.
func (s *says) next() (life int, number int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	return s.life, s.number
}

// note is told what came of having it say something in a life.
func (s *says) note(life int, v saying, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[v.Ref] = v.Viewers
	s.unsure[v.Ref] = err != nil || life != s.life
}

// say has an instance say something.
func (w *world) say(ctx context.Context, n *node, v saying) error {
	life, number := n.says.next()
	v.Number = number
	err := n.call(ctx, "say", v, &struct{}{})
	n.says.note(life, v, err)
	if f, ok := errors.AsType[*failure](err); ok {
		w.fault("%s will not say %v: %v", n.name, v, f)
	}
	w.count("pulses said")
	return err
}

// pulsate has instances say something now and then, and reads what all of them say.
func (w *world) pulsate(ctx context.Context, refs []event.Ref, dice *rand.Rand) {
	for ctx.Err() == nil {
		ref := refs[dice.IntN(len(refs))]
		_ = w.say(context.WithoutCancel(ctx), w.anywhere(dice), saying{Ref: ref, Viewers: dice.IntN(100)})
		n := w.anywhere(dice)
		_, _ = w.pulse(context.WithoutCancel(ctx), n, ref)
		<-time.After(harness.Between(dice, 10, 150))
	}
}

// pulse is how many viewers an instance knows of.
func (w *world) pulse(ctx context.Context, n *node, ref event.Ref) (int, error) {
	var d document
	err := n.call(ctx, "get", read{Ref: ref}, &d)
	if f, ok := errors.AsType[*failure](err); ok && f.Code == "no_state" {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	data, err := json.Marshal(d.Data)
	if err != nil {
		return 0, err
	}
	return w.viewers(n, data), nil
}

// viewers reads how many there are, and finds fault with fewer than none.
func (w *world) viewers(n *node, data json.RawMessage) int {
	var pulse struct{ Viewers int }
	if err := json.Unmarshal(data, &pulse); err != nil || pulse.Viewers < 0 {
		w.fault("%s says %s viewers: %v", n.name, data, err)
	}
	return pulse.Viewers
}

// look reads what is said when a watch begins. The watcher's lock is held.
func (w *watcher) look(n *node) {
	for _, ref := range w.pulses {
		if v, err := w.pulse(context.Background(), n, ref); err == nil {
			w.heard[ref] = v
		}
	}
}

// views is what every instance says and knows of a pulse, for whoever looks for a fault.
func (w *world) views(ref event.Ref) string {
	var b strings.Builder
	for _, n := range w.nodes {
		knows, err := w.pulse(w.t.Context(), n, ref)
		var s statesync.Status
		err = errors.Join(err, n.call(w.t.Context(), "status", struct{}{}, &s))
		_, _ = fmt.Fprintf(&b, "\n  %s says %d and knows %d, Redis is %s, its echo came %v ago, it has heard", n.name, n.says.of[ref], knows, s.Redis, s.EchoAge)
		for _, p := range s.Peers {
			_, _ = fmt.Fprintf(&b, " %s at %s,", p.Node, p.SeenAt.Format(time.TimeOnly))
		}
		_, _ = fmt.Fprintf(&b, " errors: %v", err)
	}
	return b.String()
}

// pulsesAgree waits until every instance and every watcher knows exactly what the instances that live say: what those say
// that were killed is forgotten, and nothing else is.
func (w *world) pulsesAgree(refs []event.Ref, watchers []*watcher) {
	w.t.Helper()
	for _, n := range w.nodes {
		for ref, unsure := range n.says.unsure {
			if unsure {
				harness.Eventually(w.t, healsWithin, n.name+" says it", func() error { return w.say(w.t.Context(), n, saying{Ref: ref, Viewers: n.says.of[ref]}) })
			}
		}
	}
	want := map[event.Ref]int{}
	for _, n := range w.nodes {
		for ref, v := range n.says.of {
			want[ref] += v
		}
	}
	begun := time.Now()
	defer func() {
		for _, ref := range refs {
			if w.t.Failed() {
				w.t.Logf("%s:%s", ref, w.views(ref))
			}
		}
	}()
	for _, n := range w.nodes {
		harness.Eventually(w.t, pulseWithin, n.name+" knows what is said", func() error {
			for _, ref := range refs {
				have, err := w.pulse(w.t.Context(), n, ref)
				if err != nil {
					return err
				}
				if have != want[ref] {
					return fmt.Errorf("it says %d viewers of %s, but there are %d", have, ref, want[ref])
				}
			}
			return nil
		})
	}
	for _, one := range watchers {
		harness.Eventually(w.t, healsWithin, one.name+" has heard what is said", func() error {
			one.mu.Lock()
			defer one.mu.Unlock()
			for _, ref := range refs {
				if one.heard[ref] != want[ref] {
					return fmt.Errorf("it has heard of %d viewers of %s, but there are %d", one.heard[ref], ref, want[ref])
				}
			}
			return nil
		})
	}
	w.pulsed = append(w.pulsed, time.Since(begun).Round(time.Millisecond))
}
