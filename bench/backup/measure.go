package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// result is one measurement of both tools.
type result struct {
	class, name  string
	ours, theirs sample
	target       float64 // of our time to theirs; 0: none
}

// sample is a backup or a restore: the best of its rounds.
type sample struct {
	cost
	bytes int64 // added to the repository; 0: it is not about that
}

func (s sample) better(t sample) sample {
	if s.wall == 0 || t.wall < s.wall {
		t.rss = max(s.rss, t.rss)
		return t
	}
	s.rss = max(s.rss, t.rss)
	return s
}

func (s *stand) ourRepo(c class) string { return filepath.Join(s.dir, "ours", c.ours) }
func (s *stand) peerRepo(c class) string {
	return filepath.Join(s.dir, "theirs", c.ours)
}

func (s *stand) archiveOurs(c class) string { return s.self + " push -repo " + s.ourRepo(c) + " %p" }

func (s *stand) archiveTheirs() string {
	return "pgbackrest --config=" + s.conf + " --stanza=bench archive-push %p"
}

// take measures one of our backups.
func (s *stand) take(ctx context.Context, c class, args ...string) (sample, error) {
	if err := s.archiveBy(ctx, s.archiveOurs(c)); err != nil {
		return sample{}, err
	}
	packs := filepath.Join(s.ourRepo(c), "packs")
	before := size(packs) + size(filepath.Join(s.ourRepo(c), "clusters"))
	all := append([]string{"take", "-repo", s.ourRepo(c), "-dsn", s.server.DSN("postgres"), "-compression", c.ours}, args...)
	used, err := s.run(ctx, s.self, all...)
	return sample{used, size(packs) + size(filepath.Join(s.ourRepo(c), "clusters")) - before}, err
}

// here are arguments for a backup on the server's own machine.
func (s *stand) here(args ...string) []string { return append(args, "-pgdata", s.server.DataDir()) }

// peer measures one of pgBackRest's.
func (s *stand) peer(ctx context.Context, c class, kind string, args ...string) (sample, error) {
	if err := s.archiveBy(ctx, s.archiveTheirs()); err != nil {
		return sample{}, err
	}
	dir := filepath.Join(s.peerRepo(c), "backup")
	before := size(dir)
	used, err := s.run(ctx, "pgbackrest", append(args, "--config="+s.conf, "--stanza=bench", "--type="+kind, "backup")...)
	return sample{used, size(dir) - before}, err
}

// step is one thing that both do.
type step struct {
	name, change string // what happens in the database before
	ours, theirs func() (sample, error)
	target       float64
	ready        func(context.Context) error // done right before each turn; may be nil
	rounds       int                         // at least
}

// measure has both take turns, each round the other way round.
func (s *stand) measure(ctx context.Context, c class, step step) (result, error) {
	r := result{class: c.name, name: step.name, target: step.target}
	for round := range max(s.o.rounds, step.rounds) {
		if step.change != "" {
			if err := s.sql(ctx, step.change, "checkpoint"); err != nil {
				return r, err
			}
		}
		turns := []struct {
			take func() (sample, error)
			best *sample
		}{{step.theirs, &r.theirs}, {step.ours, &r.ours}}
		if round%2 == 1 && step.change == "" {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			got, err := s.turn(ctx, step.ready, turn.take)
			if err != nil {
				return r, err
			}
			*turn.best = turn.best.better(got)
		}
	}
	fmt.Fprintf(os.Stderr, "%s, %s: ours %v cpu %v %d MB rss %d MB, theirs %v cpu %v %d MB\n", r.class, r.name, r.ours.wall.Round(time.Millisecond),
		r.ours.cpu.Round(time.Millisecond), r.ours.bytes>>20, r.ours.rss>>20, r.theirs.wall.Round(time.Millisecond), r.theirs.cpu.Round(time.Millisecond), r.theirs.bytes>>20)
	return r, nil
}

// turn has one of both do it, on a machine that has nothing else to do.
func (s *stand) turn(ctx context.Context, ready func(context.Context) error, take func() (sample, error)) (sample, error) {
	syscall.Sync() // nothing that was written before is still on its way to the disk
	s.pace.take()
	if ready != nil {
		if err := ready(ctx); err != nil {
			return sample{}, err
		}
	}
	got, err := take()
	if os.Getenv("BENCH_VERBOSE") != "" {
		fmt.Fprintf(os.Stderr, "a turn: %v, cpu %v\n", got.wall, got.cpu)
	}
	return got, err
}

// class takes all backups of a class, and restores one.
func (s *stand) class(ctx context.Context, c class) (string, error) {
	if err := s.configure(ctx, c); err != nil {
		return "", err
	}
	var all []result
	for _, step := range s.steps(ctx, c) {
		r, err := s.measure(ctx, c, step)
		if err != nil {
			return "", err
		}
		all = append(all, r)
	}
	return s.table(ctx, c.name, all) + "\nTheir settings:\n\n```ini\n" + s.settings(ctx, c) + "```\n", nil
}

func (s *stand) steps(ctx context.Context, c class) []step {
	rows := 100_000 * s.o.scale
	few := fmt.Sprintf("update pgbench_accounts set abalance = abalance + 1 where aid in (select 1 + floor(random() * %d)::int from generate_series(1, %d))", rows, rows/1000)
	part := fmt.Sprintf("update pgbench_accounts set filler = 'rewritten' || aid where aid between %d and %d", rows/2, rows/2+rows/100)
	ours := func(kind string, more ...string) func() (sample, error) {
		return func() (sample, error) { return s.take(ctx, c, append(more, s.here("-type", kind)...)...) }
	}
	theirs := func(kind string) func() (sample, error) {
		return func() (sample, error) { return s.peer(ctx, c, kind) }
	}
	return []step{
		{name: "full", ours: ours("full"), theirs: theirs("full"), target: c.target},
		{name: "incremental, 0.1 % of the rows changed at random", change: few, ours: ours("incremental"), theirs: theirs("incr"), target: .35},
		{name: "incremental, a contiguous 1 % rewritten", change: part, ours: ours("incremental"), theirs: theirs("incr"), target: .35},
		{name: "incremental, nothing changed", change: "select 1", ours: ours("incremental"), theirs: theirs("incr")},
		{
			name: "restore of the newest backup, to an empty folder", ours: s.restorer(ctx, c, s.restore), theirs: s.restorer(ctx, c, s.peerRestore), target: .8,
			ready: s.claim, rounds: 3,
		},
		{name: "a second full one that may reuse, beside another of ours that may not", ours: ours("full", "-reuse"), theirs: ours("full"), target: .5},
	}
}
