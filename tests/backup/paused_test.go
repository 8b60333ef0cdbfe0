package backup_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rootstream/backup"
	"rootstream/tests/harness"
)

// TestADeletionThatWasStoppedPastItsLeaseTakesNothingThatIsNeeded stops (SIGSTOP) a process that deletes, at a random
// moment after it has said what it will delete. Others take a backup on top of what it deletes, and mostly take over from it.
func TestADeletionThatWasStoppedPastItsLeaseTakesNothingThatIsNeeded(t *testing.T) {
	t.Parallel()
	seed, rounds := harness.Seed(t), 2
	if harness.Soak(t, 0) > 0 {
		rounds = 40
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, time.Minute)
	required := []string{"deletions stopped before they had deleted all", "deletions that said that they lost their lease"}
	for round := 0; round < rounds || len(w.missing(required)) > 0; round++ {
		if round == 10*rounds {
			t.Errorf("in %d rounds there were no %s", round, strings.Join(w.missing(required), ", no "))
		}
		w.stopped(rng, round)
		if t.Failed() {
			return
		}
	}
	w.disaster(rng, 1)
	t.Log(w.report())
}

const shortLease = 2 * time.Second // of those that are stopped

func (w *world) stopped(rng *rand.Rand, round int) {
	w.t.Helper()
	old := []string{w.create(), w.create("--type", "incremental")}
	taken := w.packs()
	before := w.files("intents") // of one that was stopped earlier, and that nobody has completed yet
	pruner := w.stopOnceDeclared(rng, before, append([]string{"backup", "delete", "--yes"}, old...))
	declared, left := w.declared(before), w.packs()
	gone := len(slices.DeleteFunc(slices.Clone(taken), func(p string) bool { return slices.Contains(left, p) }))
	if declared {
		w.count("deletions stopped before they had deleted all", 1)
	}
	where := fmt.Sprintf("round %d: stopped with %d of %d packs gone, declared %v, %d sessions", round, gone, len(taken), declared, len(w.files("sessions")))
	w.forget(old...)
	fresh := []string{w.create("--type", "incremental")} // of what is about to be deleted, if that is there still
	others := rng.IntN(4) > 0 || round == 0
	if others {
		harness.Eventually(w.t, 2*harness.Patience, where+": another deletion", func() error {
			if r := w.run("backup", "prune", "--yes"); r.code != 0 { // until the lease of the one that is stopped has run out
				return fmt.Errorf("%v", r)
			}
			return nil
		})
		fresh = append(fresh, w.create("--type", "incremental"))
	} else {
		<-time.After(shortLease)
	}
	pruner.Resume()
	r := ended(w.t, pruner)
	switch said := r.says(5, lost); {
	case said:
		w.count("deletions that said that they lost their lease", 1)
	case r.code != 0, declared && others:
		w.t.Errorf("%s; the deletion, when it went on: %v", where, r)
	}
	w.t.Logf("%s; others deleted %v; then: exit code %d", where, others, r.code)
	w.verified()
	listed := w.list()
	for _, id := range fresh {
		if !slices.ContainsFunc(listed, func(b backup.Backup) bool { return b.ID == id }) {
			w.t.Errorf("%s; backup %s is gone", where, id)
		}
		dir := w.home + "/fresh"
		if r := w.run("backup", "restore", id, "--immediate", "--to", dir, "--yes"); r.code != 0 {
			w.t.Errorf("%s; restore %s: %v", where, id, r)
		}
		must(w.t, os.RemoveAll(dir))
	}
}

// declared reports whether there is an intent that was not there before.
func (w *world) declared(before []string) bool {
	return slices.ContainsFunc(w.files("intents"), func(id string) bool { return !slices.Contains(before, id) })
}

// stopOnceDeclared runs a deletion and stops it at a random moment after it has said what it will delete.
func (w *world) stopOnceDeclared(rng *rand.Rand, before, args []string) *harness.Program {
	w.t.Helper()
	c := w.startWith([]string{"ROOTSTREAM_BACKUP_LEASE=" + shortLease.String()}, args...)
	for !w.declared(before) {
		if c.Within(200 * time.Microsecond) {
			break // it was quicker than we look
		}
	}
	c.Within(time.Duration(math.Pow(rng.Float64(), 3) * float64(12*time.Millisecond))) // a fast disk deletes all in a few
	for w.halt(c); w.locked() && !c.Ended(); w.halt(c) {                               // whoever stops in a swap holds up everybody, which proves nothing here
		c.Resume()
		c.Within(time.Millisecond)
	}
	return c
}

// halt stops a program and waits until it has.
func (w *world) halt(c *harness.Program) {
	w.t.Helper()
	c.Pause()
	harness.Eventually(w.t, harness.Patience, "the stop", func() error {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.PID())); err == nil && !c.Ended() && !strings.Contains(string(stat), ") T ") {
			return fmt.Errorf("it goes on: %.60s", stat)
		}
		return nil
	})
}

// locked reports whether somebody is about to replace an object of the repository.
func (w *world) locked() bool {
	w.t.Helper()
	f, err := os.Open(filepath.Join(w.repo, ".lock"))
	must(w.t, err)
	defer func() { _ = f.Close() }()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// packs are the names of all packs.
func (w *world) packs() []string {
	var all []string
	for _, folder := range w.files("packs") {
		all = append(all, w.files("packs/"+folder)...)
	}
	return all
}
