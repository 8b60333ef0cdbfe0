package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output() //nolint:gosec // names are ours
	return string(out), err
}

// report writes the tables.
func (s *stand) report(ctx context.Context, all []result) string {
	var b strings.Builder
	blocks := "block incremental on"
	if !s.peerHasBlocks(ctx) {
		blocks = "which has no block incremental yet"
	}
	fmt.Fprintf(&b, `# Backups beside pgBackRest

Written by `+"`make bench-backup`"+` on %s: %d processors, PostgreSQL %s, pgbench scale %d (%d MB of data), warm page cache, repositories on the same disk.
pgBackRest %s with process-max=2, aes-256-cbc, bundles on, start-fast, %s; ours with 2 workers, AES-256-GCM.
Both read page checksums, wait for the WAL of the backup in their repository, and fsync. The best of %d rounds, taken in turns. Time
is from start to exit; processor time is of all the tool's processes; bytes are those added to the repository.

| class | backup | ours | theirs | ratio | target | processor s/GB, ours | theirs | bytes, ours | theirs | ratio | our peak memory |
|---|---|---|---|---|---|---|---|---|---|---|---|
`, time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), s.server.Installation().Version, s.o.scale, size(s.server.DataDir())>>20,
		s.peerVersion(ctx), blocks, s.o.rounds)
	gb := float64(size(s.server.DataDir())) / (1 << 30)
	for _, r := range all {
		target := "—"
		if r.target > 0 {
			target = fmt.Sprintf("≤ %.2f", r.target)
		}
		fmt.Fprintf(&b, "| %s | %s | %.2f s | %.2f s | %.2f | %s | %.2f | %.2f | %.1f MB | %.1f MB | %.3f | %d MB |\n", r.class, r.name,
			r.ours.wall.Seconds(), r.theirs.wall.Seconds(), r.ours.wall.Seconds()/r.theirs.wall.Seconds(), target,
			r.ours.cpu.Seconds()/gb, r.theirs.cpu.Seconds()/gb, mb(r.ours.bytes), mb(r.theirs.bytes), mb(r.ours.bytes)/max(mb(r.theirs.bytes), 1e-6), r.ours.rss>>20)
	}
	return b.String()
}

func mb(n int64) float64 { return float64(n) / (1 << 20) }
