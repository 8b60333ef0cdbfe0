package backup_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"rootstream/backup"
	"rootstream/tests/harness"
)

// TestWhateverIsKilledTheRepositoryGoesOn kills (SIGKILL) backups, deletions and restores at random moments. After each
// the repository has to list what is committed, and the next run has to end well, at once.
func TestWhateverIsKilledTheRepositoryGoesOn(t *testing.T) {
	t.Parallel()
	seed, kills := harness.Seed(t), 20
	if harness.Soak(t, 0) > 0 {
		kills = 300
	}
	w := newWorld(t, time.Minute) // which nobody is to wait for
	k := &killer{world: w, manager: w.manager(), rng: rand.New(rand.NewPCG(seed, 0)), took: map[string]time.Duration{}}
	k.create()
	victims := []func() victim{k.backup, k.prune, k.restore}
	for n := 0; n < kills; {
		v := victims[n%len(victims)]()
		if k.kill(v) {
			n++
			if n%25 == 0 {
				k.verified()
				t.Logf("%d kills: %s", n, k.report())
			}
		}
		k.goesOn(v)
		if t.Failed() {
			return
		}
	}
	k.settled()
	k.disaster(k.rng, 2)
	t.Log(k.report())
}

type killer struct {
	*world
	manager *backup.Manager
	rng     *rand.Rand
	took    map[string]time.Duration // by the last run of a kind
	target  string                   // of a restore under way
}

const (
	backups   = "backups"
	deletions = "deletions"
	restores  = "restores"
)

// victim is a run that is killed, then run again.
type victim struct {
	kind string
	args []string
	sign func() bool // that it has begun its work
	done func(r result, least int64)
}

func (k *killer) backup() victim {
	kind := string(kindOf(k.rng))
	return victim{backups, []string{"backup", "create", "--type", kind}, k.sessions(), func(r result, least int64) { k.made(r, least) }}
}

func (k *killer) prune() victim {
	return victim{deletions, []string{"backup", "prune", "--yes", "-o", "json"}, k.sessions(), func(r result, _ int64) {
		var done backup.Removal
		if err := json.Unmarshal([]byte(r.stdout), &done); err != nil {
			k.t.Errorf("%v: %v", err, r)
		}
		k.forget(done.Backups...)
		k.count("packs and files deleted", done.Objects)
	}}
}

func (k *killer) restore() victim {
	all := k.there()
	k.target = filepath.Join(k.home, "restored")
	args := []string{"backup", "restore", all[k.rng.IntN(len(all))].ID, "--immediate", "--to", k.target, "--yes"}
	return victim{restores, args, func() bool { _, err := os.Lstat(k.target); return err == nil }, func(r result, _ int64) {
		if !k.whole() {
			k.t.Errorf("%v, and there is no cluster", r)
		}
		must(k.t, os.RemoveAll(k.target))
	}}
}

// whole reports whether the target of a restore can be started.
func (k *killer) whole() bool {
	_, err := os.Lstat(filepath.Join(k.target, "global", "pg_control"))
	return err == nil
}

// there are all backups, by a look from this process.
func (k *killer) there() []backup.Backup {
	k.t.Helper()
	all, err := k.manager.List(k.t.Context())
	must(k.t, err)
	if len(all) == 0 {
		k.t.Fatal("no backup is left")
	}
	return all
}

// sessions tells when there is one more than now.
func (k *killer) sessions() func() bool {
	before := k.files("sessions")
	return func() bool {
		return slices.ContainsFunc(k.files("sessions"), func(s string) bool { return !slices.Contains(before, s) })
	}
}

// kill kills a run at a random moment, mostly one of those when it does something. It may come too late.
func (k *killer) kill(v victim) (killed bool) {
	k.t.Helper()
	least, before := k.ledger.acknowledged(), k.there()
	run, begun := k.start(v.args...), time.Now()
	if k.rng.IntN(5) > 0 {
		for !v.sign() && !run.Within(3*time.Millisecond) {
		}
		begun = time.Now()
	}
	if !run.Within(time.Duration(k.rng.Int64N(int64(max(k.took[v.kind], 100*time.Millisecond))))) {
		run.Signal(syscall.SIGKILL)
	}
	r := ended(k.t, run)
	switch r.code {
	case -1:
		k.count(v.kind+" killed", 1)
	case 0:
		k.took[v.kind] = time.Since(begun)
		v.done(r, least)
	default:
		k.t.Errorf("%v: %v", v.args, r)
	}
	killed = r.code == -1
	k.lists(v, before, killed)
	return killed
}

// lists has the program list all backups: those that were there, and those that were reported as made. A killed
// deletion may have deleted those that it does not keep.
func (k *killer) lists(v victim, before []backup.Backup, killed bool) {
	k.t.Helper()
	all := k.list()
	listed := func(id string) bool {
		return slices.ContainsFunc(all, func(b backup.Backup) bool { return b.ID == id })
	}
	for i, b := range before { // the newest first
		if v.kind == deletions && i >= keptAtMost && !listed(b.ID) {
			k.forget(b.ID)
		} else if !listed(b.ID) {
			k.t.Errorf("%v (killed: %v) lost %s, the %d. newest", v.args, killed, b.ID, i+1)
		}
	}
	for id := range k.known() {
		if !listed(id) {
			k.t.Errorf("%s was made, and is not listed after %v (killed: %v)", id, v.args, killed)
		}
	}
}

// goesOn runs it again, to its end.
func (k *killer) goesOn(v victim) {
	k.t.Helper()
	least, begun, args := k.ledger.acknowledged(), time.Now(), v.args
	if v.kind == restores && k.whole() {
		args = append(slices.Clone(args), "--delta") // it was complete when it was killed
	}
	r := k.run(args...)
	if r.code != 0 {
		k.t.Errorf("the next run: %v: %v", args, r)
		return
	}
	k.took[v.kind] = time.Since(begun)
	k.count(v.kind+" completed after that", 1)
	v.done(r, least)
}
