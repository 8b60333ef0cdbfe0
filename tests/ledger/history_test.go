package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"rootstream/event"
	"rootstream/tests/harness"
)

// asked is an operation on a register: a read of the newest, a compare-and-set by version, or a set whatever is there.
// To set what is there already changes nothing.
type asked struct {
	set    bool
	expect int64 // or whatever
	value  string
}

const whatever = -1

// answered is what came of it.
type answered struct {
	unknown  bool
	conflict bool
	version  int64 // after a read or a set; in a conflict what is there
	value    string
}

// register is an entity with its history.
type register struct {
	ref     event.Ref
	mu      sync.Mutex
	history []porcupine.Operation
}

func (g *register) note(client int, call time.Duration, in asked, out answered, back time.Duration) {
	ret := int64(back)
	if out.unknown {
		ret = math.MaxInt64 // it may take effect at any time, or never
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.history = append(g.history, porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: ret})
}

// content is a register's state.
type content struct {
	version int64
	value   string
}

// model is what a register must look like: one at a time, in an order that no clock contradicts.
func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return content{} },
		Step: func(state, input, output any) (bool, any) {
			s, in, out := state.(content), input.(asked), output.(answered)
			switch {
			case !in.set:
				return out == answered{version: s.version, value: s.value}, s
			case out.conflict:
				return in.expect != whatever && in.expect != s.version && out.version == s.version, s
			case in.expect != whatever && in.expect != s.version:
				return out.unknown, s // it came too late, and does nothing
			case s.version > 0 && in.value == s.value:
				return out.unknown || out.version == s.version, s
			default:
				return out.unknown || out.version == s.version+1, content{s.version + 1, in.value}
			}
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
	}
}

// contend reads and sets a register through all instances until ctx ends.
func (w *world) contend(ctx context.Context, g *register, client int, dice *rand.Rand) {
	var seen int64
	for i := 0; ctx.Err() == nil; i++ {
		in := asked{set: dice.IntN(2) == 0}
		if in.set {
			in.expect, in.value = seen, string(rune('a'+dice.IntN(3)))
			if dice.IntN(3) == 0 {
				in.expect = whatever
			}
		}
		call := time.Since(w.began)
		out, token, known := w.ask(ctx, g.ref, in, fmt.Sprintf("%s:%d:%d", g.ref.ID, client, i), dice)
		if known {
			g.note(client, call, in, out, time.Since(w.began))
			if !out.unknown {
				seen = out.version
			}
			w.readRegister(ctx, g.ref, out.version, token, dice)
		}
		<-time.After(harness.Between(dice, 5, 60))
	}
}

// ask does one operation; it is not known if it certainly had no effect and told nothing.
func (w *world) ask(ctx context.Context, ref event.Ref, in asked, key string, dice *rand.Rand) (out answered, token string, known bool) {
	ctx = context.WithoutCancel(ctx)
	if !in.set {
		var d document
		err := w.anywhere(dice).call(ctx, "get", read{ref, "latest"}, &d)
		if f, ok := errors.AsType[*failure](err); ok && f.Code == "no_state" {
			return answered{}, "", true
		}
		value, _ := d.Data["value"].(string)
		return answered{version: d.Version, value: value}, "", err == nil
	}
	u := update{Ref: ref, Key: key, Field: "value", Value: in.value, Plain: true}
	if in.expect != whatever {
		u.Expect = &in.expect
	}
	for begun := time.Now(); time.Since(begun) < 15*time.Second; <-time.After(harness.Between(dice, 5, 100)) {
		var d document
		err := w.anywhere(dice).call(ctx, "update", u, &d)
		if err == nil {
			return answered{version: d.Version, value: in.value}, d.Token, true
		}
		f, ok := errors.AsType[*failure](err)
		switch {
		case ok && f.Code == "version_conflict":
			return answered{conflict: true, version: f.Actual}, "", true
		case ok && !f.Down:
			w.fault("compare-and-set of %s: %v", ref, f)
			return answered{}, "", false
		case ok && f.Code != "commit_unknown" && !out.unknown:
			return answered{}, "", false
		default:
			out.unknown = true
		}
		if out.unknown && in.expect == whatever {
			break // an attempt may come later, and a second one would not know of it if it changed nothing
		}
	}
	return out, "", true
}

// readRegister reads with the token that a set has answered with, if one has.
func (w *world) readRegister(ctx context.Context, ref event.Ref, version int64, token string, dice *rand.Rand) {
	if token == "" {
		return
	}
	n := w.anywhere(dice)
	var d document
	if err := n.call(ctx, "get", read{ref, token}, &d); err == nil && d.Version < version {
		w.fault("%s reads version %d of %s with the token of version %d", n.name, d.Version, ref, version)
	}
}

// linearizable checks the histories.
func (w *world) linearizable(registers []*register) {
	w.t.Helper()
	for _, g := range registers {
		for _, op := range g.history {
			in, out := op.Input.(asked), op.Output.(answered)
			w.count(fmt.Sprintf("register: set=%v whatever=%v conflict=%v unknown=%v", in.set, in.expect == whatever, out.conflict, out.unknown))
		}
		switch porcupine.CheckOperationsTimeout(model(), g.history, time.Minute) {
		case porcupine.Ok:
		case porcupine.Illegal:
			w.t.Errorf("the history of %s is not linearizable:", g.ref)
			for _, op := range g.history {
				w.t.Logf("%12v to %12v: client %d: %s", time.Duration(op.Call), time.Duration(op.Return), op.ClientId, model().DescribeOperation(op.Input, op.Output))
			}
		case porcupine.Unknown:
			w.t.Errorf("the history of %s, %d operations, is too long to be checked", g.ref, len(g.history))
		}
	}
}

func TestTheModelOfARegisterRefusesWhatMustNotBe(t *testing.T) {
	t.Parallel()
	op := func(call, ret int64, in asked, out answered) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: ret}
	}
	first, second := asked{set: true, value: "a"}, asked{set: true, expect: 1, value: "b"}
	for name, c := range map[string]struct {
		history []porcupine.Operation
		want    bool
	}{
		"in order":           {[]porcupine.Operation{op(0, 1, first, answered{version: 1}), op(2, 3, asked{}, answered{version: 1, value: "a"})}, true},
		"stale read":         {[]porcupine.Operation{op(0, 1, first, answered{version: 1}), op(2, 3, asked{}, answered{})}, false},
		"both first":         {[]porcupine.Operation{op(0, 2, first, answered{version: 1}), op(1, 3, asked{set: true, value: "b"}, answered{version: 1})}, false},
		"false conflict":     {[]porcupine.Operation{op(0, 1, first, answered{version: 1}), op(2, 3, second, answered{conflict: true, version: 1})}, false},
		"nothing changed":    {[]porcupine.Operation{op(0, 1, first, answered{version: 1}), op(2, 3, asked{set: true, expect: whatever, value: "a"}, answered{version: 1})}, true},
		"a set that is lost": {[]porcupine.Operation{op(0, 1, first, answered{version: 1}), op(2, 3, second, answered{version: 2}), op(4, 5, asked{set: true, expect: whatever, value: "a"}, answered{version: 1})}, false},
		"late unknown":       {[]porcupine.Operation{op(0, math.MaxInt64, first, answered{unknown: true}), op(2, 3, asked{}, answered{}), op(4, 5, asked{}, answered{version: 1, value: "a"})}, true},
		"unknown taken back": {[]porcupine.Operation{op(0, math.MaxInt64, first, answered{unknown: true}), op(2, 3, asked{}, answered{version: 1, value: "a"}), op(4, 5, asked{}, answered{})}, false},
	} {
		if got := porcupine.CheckOperations(model(), c.history); got != c.want {
			t.Errorf("%s: linearizable is %v", name, got)
		}
	}
}
