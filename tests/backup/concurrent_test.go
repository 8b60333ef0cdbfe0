package backup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/backup"
	logledger "rootstream/backup/archive/ledger"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/internal/wait"
	"rootstream/tests/harness"
)

// required has to have happened, or the test has shown nothing.
func required() []string {
	return []string{
		"full backups", "differential backups", "incremental backups", "backups made in this process", "backups killed",
		"backups deleted by prune", "backups deleted by id", "parents deleted whose packs a child shares",
		"packs deleted", "packs collected", "files of the log dropped", "verifications", "quick verifications", "restores",
	}
}

// TestNothingThatIsNeededIsDeletedBesideEverythingElse lets processes and this one take backups, kill them, delete
// backups and garbage, verify and restore, all at once.
func TestNothingThatIsNeededIsDeletedBesideEverythingElse(t *testing.T) {
	t.Parallel()
	seed, length := harness.Seed(t), max(30*time.Second, harness.Soak(t, 0)/3)
	w := newWorld(t, 10*time.Second)
	receiver := harness.Start(t, "receiver", []string{"wal", "receive"}, w.env)
	w.create()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), max(2*length, 4*time.Minute))
	defer cancel()
	c := &crowd{world: w, manager: w.manager(), packs: map[string][]repo.PackID{}}
	c.learn(ctx)
	var actors sync.WaitGroup
	for i, act := range []func(context.Context, *rand.Rand){
		c.createAndKill, c.createHere, c.prune, c.deleteOne, c.collect, c.verify, c.verifyHere, c.restore,
	} {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		actors.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				act(ctx, rng)
				if time.Since(begun) > length && len(w.missing(required())) == 0 {
					cancel()
				}
				_ = wait.For(ctx, harness.Between(rng, 100, 900))
			}
		})
	}
	actors.Wait()
	if m := w.missing(required()); len(m) > 0 {
		t.Errorf("after %v there were no %s", time.Since(begun).Round(time.Second), strings.Join(m, ", no "))
	}
	w.settled()
	newest := w.followed()
	if receiver.Ended() {
		t.Errorf("the receiver ended:\n%s", receiver.Tail())
	}
	w.disaster(rand.New(rand.NewPCG(seed, 100)), 2)
	w.revive(span{newest, newest}, "latest")
	t.Logf("%v: %s", time.Since(begun).Round(time.Second), w.report())
}

// settled prunes what is left, and looks at everything.
func (w *world) settled() {
	w.t.Helper()
	harness.Eventually(w.t, 2*harness.Patience, "the last deletion", func() error {
		r := w.run("backup", "prune", "--yes", "-o", "json")
		var done backup.Removal
		if r.code != 0 || json.Unmarshal([]byte(r.stdout), &done) != nil || len(done.Waiting) > 0 {
			return errors.New(r.String()) // a run that was killed is not dead yet
		}
		w.forget(done.Backups...)
		return nil
	})
	if left := w.files("intents"); len(left) > 1 { // one says below which positions log is given up, for good
		w.t.Errorf("deletions that nobody finished: %v", left)
	}
	w.verified()
	listed := w.list()
	for id := range w.known() {
		if !slices.ContainsFunc(listed, func(b backup.Backup) bool { return b.ID == id }) {
			w.t.Errorf("%s was made, and nobody deleted it; it is not listed", id)
		}
	}
}

// followed ends the client, and waits until the repository has all of its log. It returns what was acknowledged.
func (w *world) followed() int64 {
	w.t.Helper()
	w.ledger.close()
	conn, err := pgx.Connect(w.t.Context(), w.server.DSN("postgres"))
	must(w.t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) }()
	var now string
	must(w.t, conn.QueryRow(w.t.Context(), "select pg_current_wal_flush_lsn()::text").Scan(&now))
	end, err := wal.ParseLSN(now)
	must(w.t, err)
	m := w.manager()
	entries, err := m.Repo().Catalog(w.t.Context())
	must(w.t, err)
	last := entries[len(entries)-1]
	ctx, cancel := context.WithTimeout(w.t.Context(), harness.Patience)
	defer cancel()
	must(w.t, logledger.Wait(ctx, m.Repo(), last.Cluster.SystemID, last.Cluster.SegmentSize, wal.Range{Timeline: last.StopTimeline, From: last.StartLSN, To: end}))
	return w.ledger.acknowledged()
}

func (w *world) report() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for what, n := range w.counts {
		all = append(all, fmt.Sprintf("%d %s", n, what))
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(a[strings.Index(a, " "):], b[strings.Index(b, " "):]) })
	return strings.Join(all, ", ")
}

// crowd is everything that goes on in a repository at once.
type crowd struct {
	*world
	manager *backup.Manager
	sharing sync.Mutex
	packs   map[string][]repo.PackID // of backups that have been seen
}

// learn notes what the backups that are there need.
func (c *crowd) learn(ctx context.Context) {
	entries, err := c.manager.Repo().Catalog(ctx)
	if err != nil {
		c.fail(ctx, "catalog", err)
		return
	}
	for _, e := range entries {
		if e.Err != nil {
			c.t.Errorf("%s is damaged: %v", e.ID, e.Err)
			continue
		}
		if m, err := c.manager.Repo().Manifest(ctx, e.ID); err == nil { // else it was deleted
			c.sharing.Lock()
			c.packs[e.ID] = m.Packs
			c.sharing.Unlock()
		}
	}
}

// fail is for what must not happen unless the test is over.
func (c *crowd) fail(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		c.t.Errorf("%s: %v", what, err)
	}
}

// deleted notes that backups are gone, and whether others share with them.
func (c *crowd) deleted(ctx context.Context, by string, ids []string) {
	c.forget(ids...)
	c.count("backups deleted by "+by, len(ids))
	c.learn(ctx)
	entries, err := c.manager.Repo().Catalog(ctx)
	if err != nil {
		c.fail(ctx, "catalog", err)
		return
	}
	c.sharing.Lock()
	defer c.sharing.Unlock()
	for _, id := range ids {
		if slices.ContainsFunc(entries, func(e repo.Entry) bool {
			return slices.ContainsFunc(c.packs[e.ID], func(p repo.PackID) bool { return slices.Contains(c.packs[id], p) })
		}) {
			c.count("parents deleted whose packs a child shares", 1)
		}
	}
}

// kind is what there was none of yet, half of the time.
func (c *crowd) kind(rng *rand.Rand) backup.Type {
	for _, kind := range []backup.Type{backup.Full, backup.Differential, backup.Incremental} {
		if len(c.missing([]string{string(kind) + " backups"})) > 0 && rng.IntN(2) == 0 {
			return kind
		}
	}
	return kindOf(rng)
}

func kindOf(rng *rand.Rand) backup.Type {
	return []backup.Type{backup.Full, backup.Incremental, backup.Incremental, backup.Differential}[rng.IntN(4)]
}

func (c *crowd) createAndKill(ctx context.Context, rng *rand.Rand) {
	least, kind, doomed := c.ledger.acknowledged(), c.kind(rng), rng.IntN(3) == 0
	args := []string{"backup", "create", "--type", string(kind)}
	if kind == backup.Full && rng.IntN(2) == 0 {
		args = append(args, "--reuse")
	}
	run := c.start(args...)
	if doomed {
		before := len(c.files("sessions"))
		for !run.Within(3*time.Millisecond) && len(c.files("sessions")) <= before { // or it is refused
		}
		if !run.Within(harness.Between(rng, 0, 1500)) {
			run.Signal(syscall.SIGKILL)
		}
	}
	switch r := ended(c.t, run); {
	case r.code == 0:
		c.made(r, least)
		c.count(string(kind)+" backups", 1)
		c.learn(ctx)
	case r.code == -1 && doomed:
		c.count("backups killed", 1)
	case r.says(5, busy, withdrawn, lost):
		c.count("backups refused", 1)
	default:
		c.t.Errorf("create: %v", r)
	}
}

func (c *crowd) createHere(ctx context.Context, rng *rand.Rand) {
	least := c.ledger.acknowledged()
	b, err := c.manager.Create(ctx, backup.CreateOptions{Type: c.kind(rng)})
	switch {
	case err == nil:
		c.remember(b.ID, span{least, c.ledger.begun()})
		c.count("backups made in this process", 1)
		c.learn(ctx)
	case errors.Is(err, repo.ErrLeaseHeld), errors.Is(err, repo.ErrWithdrawn), errors.Is(err, repo.ErrLeaseLost):
		c.count("backups refused", 1)
	default:
		c.fail(ctx, "create", err)
	}
}

func (c *crowd) prune(ctx context.Context, _ *rand.Rand) {
	c.removal(ctx, "prune", "backup", "prune", "--yes", "-o", "json")
}

// deleteOne deletes any backup but the newest, if prune has left some.
func (c *crowd) deleteOne(ctx context.Context, rng *rand.Rand) {
	if all, err := c.manager.List(ctx); err != nil {
		c.fail(ctx, "list", err)
	} else if len(all) > keptAtMost {
		c.removal(ctx, "id", "backup", "delete", all[1+rng.IntN(len(all)-1)].ID, "--yes", "-o", "json")
	}
}

func (c *crowd) removal(ctx context.Context, by string, args ...string) {
	r := c.run(args...)
	var done backup.Removal
	switch {
	case r.code == 0 && json.Unmarshal([]byte(r.stdout), &done) == nil:
		c.count("packs deleted", done.Objects-done.WALFiles)
		c.count("files of the log dropped", done.WALFiles)
		c.deleted(ctx, by, done.Backups)
	case r.says(5, busy, lost), r.code == 3:
		c.count("deletions refused", 1)
		c.uncertain()
	default:
		c.t.Errorf("%v: %v", args, r)
	}
}

// uncertain forgets backups that a deletion which did not end well may have deleted.
func (c *crowd) uncertain() {
	known, all := c.known(), c.list()
	for id := range known {
		if !slices.ContainsFunc(all, func(b backup.Backup) bool { return b.ID == id }) {
			c.forget(id)
		}
	}
}

func (c *crowd) collect(ctx context.Context, _ *rand.Rand) {
	switch done, err := c.manager.Repo().Collect(ctx, repo.CollectOptions{MinAge: garbageAge}); {
	case err == nil:
		c.count("packs collected", done.Objects)
	case errors.Is(err, repo.ErrLeaseHeld), errors.Is(err, repo.ErrLeaseLost):
	default:
		c.fail(ctx, "collect", err)
	}
}

func (c *crowd) verify(context.Context, *rand.Rand) {
	if r := c.run("backup", "verify"); r.code != 0 {
		c.t.Errorf("verify: %v", r)
	}
	c.count("verifications", 1)
}

func (c *crowd) verifyHere(ctx context.Context, _ *rand.Rand) {
	findings, err := c.manager.Verify(ctx, backup.VerifyOptions{Quick: true})
	if err != nil {
		c.fail(ctx, "verify", err)
	}
	for _, f := range findings {
		c.t.Errorf("%s of %v: %s", f.Object, f.Backups, f.Problem)
	}
	c.count("quick verifications", 1)
}

// restore restores any backup; it may be deleted meanwhile.
func (c *crowd) restore(_ context.Context, rng *rand.Rand) {
	all := c.list()
	if len(all) == 0 {
		return
	}
	id := all[rng.IntN(len(all))].ID
	dir := filepath.Join(c.home, "restored")
	r := c.run("backup", "restore", id, "--immediate", "--to", dir, "--yes")
	must(c.t, os.RemoveAll(dir))
	switch {
	case r.code == 0:
		c.count("restores", 1)
	case slices.ContainsFunc(c.list(), func(b backup.Backup) bool { return b.ID == id }):
		c.t.Errorf("restore %s, which is still there: %v", id, r)
	default:
		c.count("restores of what was deleted meanwhile", 1)
	}
}
