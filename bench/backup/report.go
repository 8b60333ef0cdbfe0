package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

const preface = `# Backups beside pgBackRest

Written by ` + "`make bench-backup`" + ` (` + "`SCALE=300`" + ` for another size), a section per size of the database and kind of measurement; what very many files need in memory by
` + "`go run ./bench/backup -only memory -out docs/BENCHMARKS-backup.md`" + `. Both tools take turns on the same server in the same run, as the
same user, with a warm page cache and repositories on the same disk; before each turn everything is on disk that was written before. Both read page checksums, encrypt
(we with AES-256-GCM), wait until the log of the backup is in their repository, and fsync. Time is from start to exit, of restores too: files in place and on
disk. Ours writes large files past the page cache: after it, a server reads them from the disk, after theirs from memory, as far as that holds them. Before each turn of a restore, of either tool, all free memory but 1 GB is claimed and let go: a hypervisor may have taken it, and giving it
back page by page costs whoever restores first up to a second per GB that has nothing to do with the tool. Turns go the other way round in every second round,
unless something is changed before; the best counts, of restores out of at least three rounds. Processor time is of all the tool's processes, per GB (2^30) of
data; bytes are those added to the repository; memory is the peak of our process, which has to stay below 300 MB.
`

// write puts the sections into the document, in the place of older ones of the same name.
func write(path string, sections []string) error {
	old, err := os.ReadFile(path) //nolint:gosec // the operator names the document
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := string(old)
	for _, s := range sections {
		text = document(text, s)
	}
	return os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // a document
}

const heading = "\n## "

// document returns the preface, the section and all others that old has, in the order of their sizes.
func document(old, section string) string {
	_, rest, _ := strings.Cut(old, heading)
	sections := []string{section}
	for s := range strings.SplitSeq(rest, heading) {
		if s = heading + s; rest != "" && titleOf(s) != titleOf(section) {
			sections = append(sections, strings.TrimRight(s, "\n")+"\n")
		}
	}
	slices.SortFunc(sections, func(a, b string) int { return cmp.Or(scaleOf(a)-scaleOf(b), strings.Compare(titleOf(a), titleOf(b))) })
	return preface + strings.Join(sections, "")
}

func titleOf(section string) string {
	title, _, _ := strings.Cut(strings.TrimPrefix(section, heading), "\n")
	return title
}

func scaleOf(section string) (scale int) {
	_, _ = fmt.Sscanf(section, heading+"Scale %d", &scale) // 0 if it is no heading of ours
	return scale
}

func today() string { return time.Now().UTC().Format("2006-01-02") }

// table is a section with what was measured of one kind.
func (s *stand) table(ctx context.Context, of string, results []result) string {
	var b strings.Builder
	blocks := "with block incremental"
	if !s.peerHasBlocks(ctx) {
		blocks = "which has no block incremental yet"
	}
	data := s.data()
	fmt.Fprintf(&b, heading+`Scale %d, %s

%s: pgbench scale %d (%d MB of data) on PostgreSQL %s, %d processors, %d %s. pgBackRest %s, %s; both with %d processes. %v

| class | what | ours | theirs | ratio | target | processor s/GB, ours | theirs | bytes, ours | theirs | ratio | our memory |
|---|---|---|---|---|---|---|---|---|---|---|---|
`, s.o.scale, of, today(), s.o.scale, data>>20, s.server.Installation().Version, runtime.NumCPU(), s.o.rounds,
		map[bool]string{true: "round", false: "rounds"}[s.o.rounds == 1], s.peerVersion(ctx), blocks, processes, &s.pace)
	for _, r := range results {
		b.WriteString(r.row(float64(data) / (1 << 30)))
	}
	return b.String()
}

func (r result) row(gb float64) string {
	target, bytes := "—", "— | — | —"
	ratio := r.ours.wall.Seconds() / r.theirs.wall.Seconds()
	if r.target > 0 {
		target = fmt.Sprintf("≤ %.2f %s", r.target, verdict(ratio <= r.target))
	}
	if r.theirs.bytes > 0 {
		bytes = fmt.Sprintf("%.1f MB | %.1f MB | %.3f", mb(r.ours.bytes), mb(r.theirs.bytes), mb(r.ours.bytes)/mb(r.theirs.bytes))
	}
	return fmt.Sprintf("| %s | %s | %.2f s | %.2f s | %.2f | %s | %.2f | %.2f | %s | %d MB |\n", r.class, r.name, r.ours.wall.Seconds(), r.theirs.wall.Seconds(), ratio,
		target, r.ours.cpu.Seconds()/gb, r.theirs.cpu.Seconds()/gb, bytes, r.ours.rss>>20)
}

// String returns what was measured as a paragraph.
func (l load) String() string {
	how, target := "with one process, unthrottled (it has no limit)", ""
	if l.least > 0 {
		how = fmt.Sprintf("with one worker that reads %d MB/s", gentle>>20)
		target = fmt.Sprintf(" (target ≥ %.2f %s)", l.least, verdict(l.ratio() >= l.least))
	}
	return fmt.Sprintf("pgbench with %d clients: %.0f transactions per second without a backup, %.0f during a full one of %s, %s, which took %.1f s: %.2f%s.\n",
		clients, l.without, l.beside, l.tool, how, l.took.Seconds(), l.ratio(), target)
}

func verdict(met bool) string {
	if met {
		return "✓"
	}
	return "✗"
}

func mb(n int64) float64 { return float64(n) / (1 << 20) }
