package main

import (
	"context"
	"os"
	"path/filepath"
)

// remote measures full backups over the replication protocol. pgBackRest has none without itself on the server's
// machine, so the peer is pg_basebackup, which neither encrypts nor finds what it has.
func (s *stand) remote(ctx context.Context) (string, error) {
	var all []result
	for _, c := range classes() {
		r, err := s.measure(ctx, c, step{
			name:   "full, without access to the data folder; theirs is pg_basebackup",
			ours:   func() (sample, error) { return s.take(ctx, c, "-type", "full") },
			theirs: func() (sample, error) { return s.basebackup(ctx, c) },
		})
		if err != nil {
			return "", err
		}
		all = append(all, r)
	}
	return s.table(ctx, "over the replication protocol", all) +
		"\nTheirs: `pg_basebackup -Ft -X stream -c fast -Z METHOD:1`, compressed by the client as ours is, checked and synced, not encrypted.\n", nil
}

// basebackup measures PostgreSQL's own tool.
func (s *stand) basebackup(ctx context.Context, c class) (sample, error) {
	dir := filepath.Join(s.dir, "theirs", "basebackup")
	used, err := s.run(ctx, s.server.Installation().Bin("pg_basebackup"), "-D", dir, "-Ft", "-X", "stream", "-c", "fast", "-Z", c.basis)
	got := sample{used, size(dir)}
	if failed := os.RemoveAll(dir); err == nil {
		err = failed
	}
	return got, err
}
