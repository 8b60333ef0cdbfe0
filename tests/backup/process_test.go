package backup_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"rootstream/tests/harness"
)

// result is a run that has ended; its code is -1 if it was killed.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string { return fmt.Sprintf("exit code %d\n%s%s", r.code, r.stdout, r.stderr) }

// says reports whether it ended for a reason that is nobody's fault.
func (r result) says(code int, words ...string) bool {
	for _, word := range words {
		if r.code == code && strings.Contains(r.stderr, word) {
			return true
		}
	}
	return false
}

// What the program says when others are at work.
const (
	busy      = "somebody else is writing to the repository"
	withdrawn = "the backup was withdrawn"
	lost      = "the run was declared dead, or could not say that it lives"
)

// start starts the program.
func (w *world) start(args ...string) *harness.Program {
	w.t.Helper()
	return w.startWith(nil, args...)
}

// startWith starts the program with something more in its environment.
func (w *world) startWith(env []string, args ...string) *harness.Program {
	w.t.Helper()
	return harness.Start(w.t, strings.Join(args[:2], "-"), args, slices.Concat(w.env, env))
}

// run runs the program to its end.
func (w *world) run(args ...string) result {
	w.t.Helper()
	return ended(w.t, w.start(args...))
}

// ended waits for the end of a run.
func ended(t *testing.T, p *harness.Program) result {
	t.Helper()
	return result{p.WaitFor(3 * harness.Patience), p.Output(), p.Log()}
}
