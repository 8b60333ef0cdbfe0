package replication_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"rootstream/backup/replication"
	"rootstream/pgserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newServer(t *testing.T) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{SocketOnly: true, Params: map[string]string{"wal_level": "replica"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Discard(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return s
}

// standBy has a server wait for log, as a standby does.
func standBy(t *testing.T, s *pgserver.Server) {
	t.Helper()
	if err := s.Stop(t.Context(), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.DataDir(), "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// identify says which server a DSN leads to for replication.
func identify(ctx context.Context, dsn string) (uint64, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return 0, err
	}
	replication.Prepare(cfg, "test")
	conn, err := replication.Dial(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer replication.HangUp(ctx, conn)
	s, err := replication.Identify(ctx, conn)
	return s.ID, err
}

func TestAReplicationConnectionLeadsToTheServerThatIsAskedFor(t *testing.T) {
	t.Parallel()
	primary, standby := newServer(t), newServer(t)
	standBy(t, standby)
	id := func(s *pgserver.Server) uint64 {
		t.Helper()
		id, err := identify(t.Context(), s.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first, second := id(primary), id(standby)
	to := func(attrs string, servers ...*pgserver.Server) string {
		var hosts, ports string
		for _, s := range servers {
			hosts, ports = hosts+","+s.SocketDir(), ports+fmt.Sprintf(",%d", s.Port())
		}
		return fmt.Sprintf("host=%s port=%s user=%s dbname=postgres sslmode=disable target_session_attrs=%s", hosts[1:], ports[1:], primary.Superuser(), attrs)
	}
	for attrs, want := range map[string]uint64{
		"any": first, "primary": first, "read-write": first, "standby": second, "read-only": second, "prefer-standby": second,
	} {
		order := []*pgserver.Server{primary, standby}
		if want == first && attrs != "any" {
			order = []*pgserver.Server{standby, primary}
		}
		if got, err := identify(t.Context(), to(attrs, order...)); err != nil || got != want {
			t.Errorf("%s: system %d, want %d: %v", attrs, got, want, err)
		}
	}
	if got, err := identify(t.Context(), to("prefer-standby", primary)); err != nil || got != first {
		t.Errorf("without a standby to prefer: %d, %v", got, err)
	}
	if _, err := identify(t.Context(), to("primary", standby)); !errors.Is(err, pgconn.ErrStandbyConnection) {
		t.Errorf("a primary that is a standby: %v", err)
	}
	if _, err := identify(t.Context(), to("standby", primary)); !errors.Is(err, pgconn.ErrPrimaryConnection) {
		t.Errorf("a standby that is a primary: %v", err)
	}
}
