package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	"rootstream/tests/harness"
)

// deck draws one kind of fault after the other, shuffled, so that all of them come.
func deck(kinds ...harness.Track) harness.Track {
	var order []int
	return func(r *rand.Rand) harness.Fault {
		if len(order) == 0 {
			order = r.Perm(len(kinds))
		}
		next := kinds[order[0]]
		order = order[1:]
		return next(r)
	}
}

// kill ends the instance where it stands, or asks it to stop; start gives it another life.
func (n *node) kill()  { n.run.Kill() }
func (n *node) pause() { n.run.Pause() }

// lifeFaults are what happens to a process itself. longest is how long one may be stopped.
func (w *world) lifeFaults(longest time.Duration) harness.Track {
	any := func(fn func(*rand.Rand, *node) harness.Fault) harness.Track {
		return func(r *rand.Rand) harness.Fault { return fn(r, w.nodes[r.IntN(len(w.nodes))]) }
	}
	stopped := func(r *rand.Rand) time.Duration { return harness.Between(r, 1000, int(longest.Milliseconds())) }
	return deck(
		any(func(r *rand.Rand, n *node) harness.Fault {
			return harness.Fault{What: n.name + " killed", Do: n.kill, Undo: func() { w.start(n) }, Lasts: harness.Between(r, 50, 1500)}
		}),
		any(func(_ *rand.Rand, n *node) harness.Fault {
			return harness.Fault{What: n.name + " stopped and started", Do: func() {
				if code := n.run.Terminate(); code != 0 {
					w.fault("%s stopped with exit code %d", n.name, code)
				}
				w.start(n)
			}}
		}),
		any(func(r *rand.Rand, n *node) harness.Fault {
			return harness.Fault{What: n.name + " paused", Do: n.pause, Undo: func() { n.run.Resume() }, Lasts: stopped(r)}
		}),
		any(func(r *rand.Rand, n *node) harness.Fault {
			return harness.Fault{What: n.name + " paused between commit and publish", Do: func() { w.between(n, syscall.SIGSTOP) }, Undo: func() {
				if state := processState(n.run.PID()); state == "T" {
					w.count("paused between commit and publish")
				}
				w.between(n, 0)
				n.run.Resume()
			}, Lasts: stopped(r)}
		}),
		any(func(r *rand.Rand, n *node) harness.Fault {
			return harness.Fault{What: n.name + " killed between commit and publish", Do: func() { w.between(n, syscall.SIGKILL) }, Undo: func() {
				if n.run.Ended() {
					w.count("killed between commit and publish")
				}
				n.kill()
				w.between(n, 0)
				w.start(n)
			}, Lasts: harness.Between(r, 200, 2000)}
		}),
	)
}

// between has an instance send itself a signal between its next commit and publishing it; 0 takes that back.
func (w *world) between(n *node, s syscall.Signal) {
	n.order(w.t, func(o *orders) { o.Number, o.Signal = o.Number+1, s })
}

// processState is the letter that Linux has for it, T for stopped.
func processState(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // it may have ended
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:min(1, len(rest))]
}

// clockFault sets an instance's clock wrong by up to 10 s.
func (w *world) clockFault(r *rand.Rand) harness.Fault {
	n := w.nodes[r.IntN(len(w.nodes))]
	ahead := harness.Between(r, -10_000, 10_000)
	return harness.Fault{
		What: fmt.Sprintf("%s has its clock wrong by %v", n.name, ahead),
		Do:   func() { n.order(w.t, func(o *orders) { o.Clock = ahead }) },
		Undo: func() { n.order(w.t, func(o *orders) { o.Clock = 0 }) },
	}
}

// held is a transaction that somebody has left open.
func (w *world) held(r *rand.Rand) harness.Fault {
	var end func()
	return harness.Fault{What: "a transaction held open", Do: func() { end = w.hold() }, Undo: func() { end() }, Lasts: harness.Between(r, 2000, 6000)}
}

// lineFault draws what happens between one instance and the servers.
func (w *world) lineFault(r *rand.Rand) harness.Fault {
	n := w.nodes[r.IntN(len(w.nodes))]
	return n.Fault(r, n.name)
}
