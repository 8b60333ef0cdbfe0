package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// result is one measurement of both tools.
type result struct {
	class, name  string
	ours, theirs sample
	target       float64 // of our time to theirs; 0: none
}

// sample is a backup: the best of its rounds.
type sample struct {
	cost
	bytes int64 // added to the repository
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

// take measures one of our backups.
func (s *stand) take(ctx context.Context, c class, args ...string) (sample, error) {
	if err := s.archiveBy(ctx, s.self+" push -repo "+s.ourRepo(c)+" %p"); err != nil {
		return sample{}, err
	}
	packs := filepath.Join(s.ourRepo(c), "packs")
	before := size(packs) + size(filepath.Join(s.ourRepo(c), "clusters"))
	all := append([]string{"take", "-repo", s.ourRepo(c), "-dsn", s.server.DSN("postgres"), "-pgdata", s.server.DataDir(), "-compression", c.ours}, args...)
	used, err := s.run(ctx, s.self, all...)
	return sample{used, size(packs) + size(filepath.Join(s.ourRepo(c), "clusters")) - before}, err
}

// peer measures one of pgBackRest's, tuned as its manual advises: bundles (blocks where its version has them).
func (s *stand) peer(ctx context.Context, c class, kind string) (sample, error) {
	if err := s.archiveBy(ctx, "pgbackrest --config="+s.conf+" --stanza=bench archive-push %p"); err != nil {
		return sample{}, err
	}
	dir := filepath.Join(s.peerRepo(c), "backup")
	before := size(dir)
	used, err := s.run(ctx, "pgbackrest", "--config="+s.conf, "--stanza=bench", "--type="+kind, "backup")
	return sample{used, size(dir) - before}, err
}

func (s *stand) configure(ctx context.Context, c class) error {
	block := ""
	if s.peerHasBlocks(ctx) {
		block = "repo1-block=y\n"
	}
	text := fmt.Sprintf(`[global]
repo1-path=%s
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=benchbenchbenchbenchbenchbenchbench
repo1-bundle=y
%srepo1-retention-full=9
compress-type=%s
compress-level=%s
process-max=2
start-fast=y
log-level-console=off
log-level-file=off
log-path=%s
lock-path=%s
[bench]
pg1-path=%s
pg1-port=%d
pg1-socket-path=%s
pg1-user=%s
`, s.peerRepo(c), block, c.peer, c.peerLevel, filepath.Join(s.dir, "log"), filepath.Join(s.dir, "log"), s.server.DataDir(), s.server.Port(), s.server.SocketDir(), s.server.Superuser())
	if err := os.WriteFile(s.conf, []byte(text), 0o644); err != nil { //nolint:gosec // a key for a benchmark
		return err
	}
	if err := s.user.MkdirAll(s.peerRepo(c)); err != nil {
		return err
	}
	_, err := s.run(ctx, "pgbackrest", "--config="+s.conf, "--stanza=bench", "--no-online", "stanza-create")
	return err
}

func (s *stand) peerVersion(ctx context.Context) string {
	out, err := output(ctx, "pgbackrest", "version")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(strings.TrimPrefix(out, "pgBackRest "))
}

// peerHasBlocks: block incremental backups came with 2.46.
func (s *stand) peerHasBlocks(ctx context.Context) bool {
	var major, minor int
	if _, err := fmt.Sscanf(s.peerVersion(ctx), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 2 || minor >= 46
}

// measure takes all backups of a class.
func (s *stand) measure(ctx context.Context, c class) ([]result, error) {
	if err := s.configure(ctx, c); err != nil {
		return nil, err
	}
	rows := 100_000 * s.o.scale
	few := fmt.Sprintf("update pgbench_accounts set abalance = abalance + 1 where aid in (select 1 + floor(random() * %d)::int from generate_series(1, %d))", rows, rows/1000)
	part := fmt.Sprintf("update pgbench_accounts set filler = 'rewritten' || aid where aid between %d and %d", rows/2, rows/2+rows/100)
	steps := []struct {
		name, change string
		ours         []string
		peer         string
		target       float64
	}{
		{"full", "", []string{"-type", "full"}, "full", map[string]float64{"s2": .8, "zstd": .9}[c.ours]},
		{"incremental, 0.1 % of the rows changed at random", few, []string{"-type", "incremental"}, "incr", .35},
		{"incremental, a contiguous 1 % rewritten", part, []string{"-type", "incremental"}, "incr", .35},
		{"incremental, nothing changed", "select 1", []string{"-type", "incremental"}, "incr", 0},
	}
	var all []result
	for _, step := range steps {
		r := result{class: c.name, name: step.name, target: step.target}
		for range s.o.rounds {
			if step.change != "" {
				if err := s.sql(ctx, step.change, "checkpoint"); err != nil {
					return all, err
				}
			}
			theirs, err := s.peer(ctx, c, step.peer)
			if err != nil {
				return all, err
			}
			ours, err := s.take(ctx, c, step.ours...)
			if err != nil {
				return all, err
			}
			r.ours, r.theirs = r.ours.better(ours), r.theirs.better(theirs)
		}
		fmt.Fprintf(os.Stderr, "%s, %s: ours %v cpu %v %d MB rss %d MB, theirs %v cpu %v %d MB\n", r.class, r.name, r.ours.wall.Round(time.Millisecond),
			r.ours.cpu.Round(time.Millisecond), r.ours.bytes>>20, r.ours.rss>>20, r.theirs.wall.Round(time.Millisecond), r.theirs.cpu.Round(time.Millisecond), r.theirs.bytes>>20)
		all = append(all, r)
	}
	again := result{class: c.name, name: "a second full one that may reuse, against the first", target: .5, theirs: all[0].ours}
	var err error
	if again.ours, err = s.take(ctx, c, "-type", "full", "-reuse"); err != nil {
		return all, err
	}
	return append(all, again), nil
}
