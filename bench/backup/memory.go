package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	memoryPart = "memory"
	mostMemory = 300 << 20
	killed     = "killed"
)

// memory measures what our process needs at most for a cluster of very many files, each of which is new and has a blob
// of its own: on the server's machine and over the replication protocol, with few and many workers, and when it goes on
// where a run was killed that had stored everything; and to restore it.
func (s *stand) memory(ctx context.Context) (string, error) {
	if err := s.manyFiles(); err != nil {
		return "", err
	}
	c := classes()[1]
	var b strings.Builder
	fmt.Fprintf(&b, heading+`Memory

%s: a cluster of PostgreSQL %s with %d files beside its own, each with content of its own; the peak of our process, which has to stay below %d MB.

| what | workers | memory | | time |
|---|---|---|---|---|
`, today(), s.server.Installation().Version, s.o.files, mostMemory>>20)
	takes := func(args ...string) func(workers string) (sample, error) {
		return func(workers string) (sample, error) { return s.take(ctx, c, append(args, "-workers", workers)...) }
	}
	restores := func(args ...string) func(workers string) (sample, error) {
		return func(workers string) (sample, error) {
			dir, err := s.restoredDir()
			if err != nil {
				return sample{}, err
			}
			used, err := s.restore(ctx, c, dir, append(args, "-workers", workers)...)
			return sample{cost: used}, err
		}
	}
	for _, m := range []struct {
		name    string
		workers int
		do      func(workers string) (sample, error)
	}{
		{"full, " + killed + " when all was stored", 2, takes(s.here("-die")...)},
		{"full, resumed", 2, takes(s.here()...)},
		{"full", 16, takes(s.here()...)},
		{"incremental, nothing changed", 2, takes(s.here("-type", "incremental")...)},
		{"full that may reuse", 16, takes(s.here("-reuse")...)},
		{"full over the replication protocol", 16, takes()},
		{"incremental over the replication protocol, nothing changed", 2, takes("-type", "incremental")},
		{"restore", 16, restores()},
		{"restore over what is there, nothing changed", 16, restores("-delta")},
		{"restore over what is there, " + killed + " when all was written", 2, restores("-delta", "-die")},
		{"restore over what is there, resumed", 2, restores("-delta")},
	} {
		got, err := m.do(strconv.Itoa(m.workers))
		if err != nil && (!strings.Contains(m.name, killed) || !strings.Contains(err.Error(), "signal: killed")) {
			return "", err
		}
		row := fmt.Sprintf("| %s | %d | %d MB | %s | %.0f s |\n", m.name, m.workers, got.rss>>20, verdict(got.rss < mostMemory), got.wall.Seconds())
		_, _ = os.Stderr.WriteString(row)
		b.WriteString(row)
	}
	return b.String(), nil
}

// manyFiles makes them, in one folder.
func (s *stand) manyFiles() error {
	dir := filepath.Join(s.server.DataDir(), "many")
	if err := s.user.MkdirAll(dir); err != nil {
		return err
	}
	for i := range s.o.files {
		name := strconv.Itoa(i)
		if err := os.WriteFile(filepath.Join(dir, name), []byte("the content of "+name), 0o644); err != nil { //nolint:gosec // the server's user has to read it
			return err
		}
	}
	return nil
}
