package ledger_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"rootstream/tests/harness"
)

// node is an instance, over all its lives, behind lines of its own to PostgreSQL and Redis.
type node struct {
	harness.Lines
	name string
	env  []string
	run  *harness.Program
	url  atomic.Pointer[string]
}

// errLost is an answer that never came: nobody knows what was done.
var errLost = errors.New("no answer")

// call asks an instance something. A failure is its answer, errLost is none.
func (n *node) call(ctx context.Context, what string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout+time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, *n.url.Load()+"/"+what, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if res.StatusCode == http.StatusOK {
		return dec.Decode(out)
	}
	f := &failure{}
	if err := dec.Decode(f); err != nil {
		return fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return f
}

// watch tells hear every line of a watch until it ends, ctx ends or hear says false.
func (n *node) watch(ctx context.Context, q url.Values, hear func(told) bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, *n.url.Load()+"/watch?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewReader(res.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		var t told
		if err := json.Unmarshal(line, &t); err != nil {
			return fmt.Errorf("%w: %s", err, line)
		}
		if !hear(t) {
			return nil
		}
	}
}

// kill ends the instance where it stands, or asks it to stop; start gives it another life.
func (n *node) kill()  { n.run.Kill() }
func (n *node) pause() { n.run.Pause() }

// lifeFault draws what happens to a process itself.
func (w *world) lifeFault(r *rand.Rand) harness.Fault {
	n := w.nodes[r.IntN(len(w.nodes))]
	switch r.IntN(4) {
	case 0:
		return harness.Fault{What: n.name + " killed", Do: n.kill, Undo: func() { w.start(n) }, Lasts: harness.Between(r, 50, 1500)}
	case 1:
		return harness.Fault{What: n.name + " stopped and started", Do: func() {
			if code := n.run.Terminate(); code != 0 {
				w.fault("%s stopped with exit code %d", n.name, code)
			}
			w.start(n)
		}}
	default:
		return harness.Fault{What: n.name + " paused", Do: n.pause, Undo: func() { n.run.Resume() }, Lasts: harness.Between(r, 1000, 10_000)}
	}
}

// storeFault draws what happens to the servers beside the faults that all tests have.
func (w *world) storeFault(r *rand.Rand) harness.Fault {
	if r.IntN(4) > 0 {
		return w.servers(r)
	}
	if r.IntN(2) == 0 {
		return harness.Fault{What: "Redis loses a key", Do: func() {
			if name, ok := w.redis.Do("RANDOMKEY").(string); ok {
				w.redis.Do("DEL", name)
			}
		}}
	}
	var end func()
	return harness.Fault{What: "a transaction held open", Do: func() { end = w.hold() }, Undo: func() { end() }, Lasts: harness.Between(r, 2000, 6000)}
}

// lineFault draws what happens between one instance and the servers.
func (w *world) lineFault(r *rand.Rand) harness.Fault {
	n := w.nodes[r.IntN(len(w.nodes))]
	return n.Fault(r, n.name)
}
