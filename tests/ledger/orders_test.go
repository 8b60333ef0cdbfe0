package ledger_test

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// orders are what the test has an instance do to itself, in a file that outlives it: what is wrong with a machine's
// clock stays so when its programs start again.
type orders struct {
	Clock  time.Duration  `json:"clock"`  // how far ahead it is
	Number int            `json:"number"` // of what follows, which is done once
	Signal syscall.Signal `json:"signal"` // to itself, between the next commit and its being published
}

// control is the test's end of the file.
type control struct {
	file string
	mu   sync.Mutex
	now  orders
}

// order changes what an instance is to do.
func (c *control) order(tb testing.TB, change func(*orders)) {
	tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.now)
	b, err := json.Marshal(c.now)
	if err == nil {
		err = os.WriteFile(c.file+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(c.file+".new", c.file)
	}
	if err != nil {
		tb.Error(err)
	}
}

// obedience is the instance's end.
type obedience struct {
	file  string
	ahead atomic.Int64
	armed atomic.Int64 // signal
	done  int          // number of the last order
}

func (o *obedience) run(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			o.look()
		}
	}
}

func (o *obedience) look() {
	var now orders
	b, err := os.ReadFile(o.file)
	if err != nil || json.Unmarshal(b, &now) != nil {
		return // there are none yet
	}
	o.ahead.Store(int64(now.Clock))
	if now.Number != o.done {
		o.done = now.Number
		o.armed.Store(int64(now.Signal))
	}
}

// now is the time as this machine has it.
func (o *obedience) now() time.Time { return time.Now().Add(time.Duration(o.ahead.Load())) }

// committed is where an instance that was told to stops or dies.
func (o *obedience) committed() {
	if s := o.armed.Swap(0); s != 0 {
		_ = syscall.Kill(os.Getpid(), syscall.Signal(s)) // it is ours
	}
}
