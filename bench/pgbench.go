package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
)

// sent returns the statements that do really sends, in order and but for those that only make settings, as the server has
// them: what is asked of pgbench is never a copy that grows old.
func (s *stack) sent(ctx context.Context, do func(db *postgres.DB) error) ([]string, error) {
	db, err := postgres.Open(ctx, postgres.Config{DSN: s.dsn, MaxConns: 1, Logger: quiet()})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if err = do(db); err != nil {
		return nil, err
	}
	conn, err := db.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	rows, err := conn.Query(ctx, `select statement from pg_prepared_statements
		where statement not like 'select set_config(%' and statement not like '%pg_prepared_statements%' order by prepare_time`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// filled puts expressions in the place of a statement's parameters.
func filled(statement string, args ...string) string {
	for i := len(args); i > 0; i-- {
		statement = strings.ReplaceAll(statement, "$"+strconv.Itoa(i), args[i-1])
	}
	return strings.TrimSpace(statement) + ";\n"
}

var progressLine = regexp.MustCompile(`progress: [0-9.]+ s, ([0-9.]+) tps`)

const benchClients = 20 // connections, of the pool as of pgbench

// How pgbench sends statements.
const (
	prepared = "prepared"
	simple   = "simple"
)

// pgbench runs a script and returns transactions a second.
func (s *stack) pgbench(ctx context.Context, script string, d time.Duration) (float64, error) {
	return s.pgbenchOf(ctx, prepared, []string{script}, nil, d)
}

// pgbenchOf runs scripts, any of them at a time, which send vars as parameters if mode is prepared
// and must not be long. The first second, in which it connects and prepares,
// does not count.
func (s *stack) pgbenchOf(ctx context.Context, mode string, scripts []string, vars map[string]string, d time.Duration) (float64, error) {
	bin, err := s.pgbenchPath()
	if err != nil {
		return 0, err
	}
	args := []string{
		"-n", "-M", mode, "-c", strconv.Itoa(benchClients), "-j", "2",
		"-T", strconv.Itoa(2 + int(max(1, math.Round(d.Seconds())))), "-P", "1",
	}
	for i, script := range scripts {
		file := filepath.Join(s.dir, fmt.Sprintf("pgbench-%d.sql", i))
		if err = os.WriteFile(file, []byte(script), 0o600); err != nil { //nolint:gosec // a file of ours
			return 0, err
		}
		args = append(args, "-f", file)
	}
	for name, value := range vars {
		args = append(args, "-D", name+"="+value)
	}
	cmd := exec.CommandContext(ctx, bin, args...) //nolint:gosec // a program we looked for
	cmd.Env = append(os.Environ(), "PGHOST=127.0.0.1", "PGPORT="+strconv.Itoa(s.pg.Port()), "PGUSER=postgres",
		"PGPASSWORD="+s.password, "PGDATABASE="+database,
		"PGOPTIONS=-c rootstream.writer=on -c timezone=UTC -c statement_timeout=30s -c lock_timeout=5s")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w\n%s\n%s", err, scripts[0], out)
	}
	var rates []float64
	for i, m := range progressLine.FindAllSubmatch(out, -1) {
		rate, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, fmt.Errorf("pgbench said %s: %w", m[0], err)
		}
		if i > 0 {
			rates = append(rates, rate)
		}
	}
	if len(rates) == 0 || middle(rates) == 0 {
		return 0, fmt.Errorf("pgbench made no progress:\n%s", out)
	}
	return mean(rates), nil
}

// pgbenchSide is pgbench with a script, to be measured by turns.
func (s *stack) pgbenchSide(script string) side {
	return side{ready: true, rate: func(ctx context.Context, d time.Duration) (float64, error) { return s.pgbench(ctx, script, d) }}
}

func (s *stack) pgbenchPath() (string, error) {
	bin := s.pg.Installation().Bin("pgbench")
	if _, err := os.Stat(bin); err == nil { //nolint:gosec // PostgreSQL's folder
		return bin, nil
	}
	bin, err := exec.LookPath("pgbench")
	if err != nil {
		return "", errors.New("pgbench is needed: it comes with Debian's PostgreSQL (apt-get install postgresql-contrib)")
	}
	return bin, nil
}
