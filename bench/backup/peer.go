package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// settings are what the peer is told, tuned as its manual advises; the report shows them.
func (s *stand) settings(ctx context.Context, c class) string {
	block := ""
	if s.peerHasBlocks(ctx) {
		block = "repo1-block=y\n"
	}
	return fmt.Sprintf(`repo1-cipher-type=aes-256-cbc
repo1-bundle=y
%scompress-type=%s
compress-level=%s
process-max=%d
start-fast=y
`, block, c.peer, c.peerLevel, processes)
}

func (s *stand) configure(ctx context.Context, c class) error {
	text := fmt.Sprintf(`[global]
%srepo1-path=%s
repo1-cipher-pass=benchbenchbenchbenchbenchbenchbench
repo1-retention-full=9
log-level-console=off
log-level-file=off
log-path=%s
lock-path=%s
[bench]
pg1-path=%s
pg1-port=%d
pg1-socket-path=%s
pg1-user=%s
`, s.settings(ctx, c), s.peerRepo(c), filepath.Join(s.dir, "log"), filepath.Join(s.dir, "log"), s.server.DataDir(), s.server.Port(), s.server.SocketDir(), s.server.Superuser())
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
	out, err := exec.CommandContext(ctx, "pgbackrest", "version").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "pgBackRest "))
}

// peerHasBlocks: block incremental backups came with 2.46.
func (s *stand) peerHasBlocks(ctx context.Context) bool {
	var major, minor int
	if _, err := fmt.Sscanf(s.peerVersion(ctx), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 2 || minor >= 46
}
