package base

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

const (
	oldest, newest = 14, 18
	patience       = 30 * time.Second // for an answer that needs no work
)

// server is the one session that a backup has from its start to its stop: the server forgets the backup with it.
type server struct {
	conn *pgx.Conn
	facts
}

// facts are what a server says about itself.
type facts struct {
	major     int
	standby   bool
	system    uint64
	settings  map[string]string
	databases []repo.Database
}

// connect opens the session. Nothing that limits ordinary sessions may end it.
func connect(ctx context.Context, dsn string) (*server, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, ErrServer.WithCause(fmt.Errorf("read the DSN: %w", err))
	}
	cfg.RuntimeParams["application_name"] = "rootstream backup"
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is prepared
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, ErrServer.WithCause(err)
	}
	s := &server{conn: conn}
	if err = s.prepare(ctx); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

func (s *server) prepare(ctx context.Context) error {
	var version int
	if err := s.conn.QueryRow(ctx, "select current_setting('server_version_num')::int").Scan(&version); err != nil {
		return ErrServer.WithCause(err)
	}
	if s.major = version / 10000; s.major < oldest || s.major > newest {
		return ErrVersion.WithCause(fmt.Errorf("%d, and %d to %d are", s.major, oldest, newest))
	}
	if err := s.direct(ctx); err != nil {
		return err
	}
	settings := []string{
		"search_path = pg_catalog", "statement_timeout = 0", "lock_timeout = 0", "idle_in_transaction_session_timeout = 0",
		"idle_session_timeout = 0", "max_parallel_workers_per_gather = 0", "client_min_messages = error", "timezone = 'UTC'",
	}
	for _, set := range settings {
		if _, err := s.conn.Exec(ctx, "set session "+set); err != nil {
			return ErrServer.WithCause(fmt.Errorf("set %s: %w", set, err))
		}
	}
	return s.learn(ctx)
}

// direct refuses a pooler: it makes up the process id that it tells its clients.
func (s *server) direct(ctx context.Context) error {
	var pid uint32
	if err := s.conn.QueryRow(ctx, "select pg_catalog.pg_backend_pid()").Scan(&pid); err != nil {
		return ErrServer.WithCause(err)
	}
	if pid != s.conn.PgConn().PID() {
		return ErrPooler.WithHint("give the address of the server itself")
	}
	return nil
}

func (s *server) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// needed are the settings that a server which replays this one's log must not have lower, and what else decides
// whether a copy of its files means the same elsewhere.
var needed = []string{ //nolint:gochecknoglobals // a table
	"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction",
	"wal_level", "archive_mode", "shared_preload_libraries", "server_version", "server_encoding", "track_commit_timestamp",
}

func (s *server) learn(ctx context.Context) error {
	var system int64 // the server has no type for its 64 bits without a sign
	err := s.conn.QueryRow(ctx, "select pg_is_in_recovery(), system_identifier from pg_control_system()").Scan(&s.standby, &system)
	if err != nil {
		return ErrServer.WithCause(err)
	}
	s.system = uint64(system) //nolint:gosec // the same bits
	s.settings = make(map[string]string)
	err = s.pairs(ctx, "select name, setting from pg_settings where name = any($1)", needed)
	if err == nil {
		err = s.pairs(ctx, "select 'extension.' || extname, extversion from pg_extension")
	}
	if err == nil && s.major >= 15 {
		err = s.pairs(ctx, "select 'collation.' || datname, datcollversion from pg_database where datcollversion is not null")
	}
	if err != nil {
		return ErrServer.WithCause(err)
	}
	rows, _ := s.conn.Query(ctx, "select oid, datname from pg_database where datallowconn order by oid")
	s.databases, err = pgx.CollectRows(rows, pgx.RowToStructByPos[repo.Database])
	if err != nil {
		return ErrServer.WithCause(err)
	}
	return nil
}

func (s *server) pairs(ctx context.Context, sql string, args ...any) error {
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		s.settings[name] = value
		return nil
	})
	return err
}

// start begins the backup and returns where recovery of it begins, and the server's time.
func (s *server) start(ctx context.Context, label string, fast bool) (wal.LSN, time.Time, error) {
	sql := "select b::text, clock_timestamp() from pg_backup_start($1, $2) b"
	if s.major < 15 {
		sql = "select b::text, clock_timestamp() from pg_start_backup($1, $2, false) b"
	}
	var at string
	var now time.Time
	if err := s.conn.QueryRow(ctx, sql, label, fast).Scan(&at, &now); err != nil {
		return 0, time.Time{}, ErrServer.WithCause(fmt.Errorf("start the backup: %w", err))
	}
	lsn, err := wal.ParseLSN(at)
	return lsn, now.UTC(), err
}

// position returns where the log is, on which timeline, and the server's time.
func (s *server) position(ctx context.Context) (wal.LSN, wal.TimelineID, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sql := `select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end)::text,
		timeline_id, clock_timestamp() from pg_control_checkpoint()`
	var at string
	var timeline uint32
	var now time.Time
	if err := s.conn.QueryRow(ctx, sql).Scan(&at, &timeline, &now); err != nil {
		return 0, 0, time.Time{}, ErrServer.WithCause(err)
	}
	lsn, err := wal.ParseLSN(at)
	return lsn, wal.TimelineID(timeline), now.UTC(), err
}

// control is what the server's control file says about the cluster, for who cannot read it.
func (s *server) control(ctx context.Context) (pgdata.Control, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := pgdata.Control{SystemID: s.system}
	var inside int
	err := s.conn.QueryRow(ctx, `select database_block_size, blocks_per_segment, bytes_per_wal_segment, data_page_checksum_version <> 0,
		(select catalog_version_no from pg_control_system()),
		(select count(*) from pg_tablespace where pg_tablespace_location(oid) like 'pg_tblspc/%') from pg_control_init()`).
		Scan(&c.BlockSize, &c.BlocksPerSegment, &c.WALSegmentSize, &c.PageChecksums, &c.Catalog, &inside)
	if err != nil {
		return c, ErrServer.WithCause(err)
	}
	if inside > 0 {
		return c, ErrServer.WithCause(fmt.Errorf("%d tablespaces are in the data folder itself (allow_in_place_tablespaces): not every version sends them", inside))
	}
	if c.BlockSize == 0 || c.BlocksPerSegment == 0 {
		return c, ErrServer.WithCause(errors.New("it says that blocks or segments are empty"))
	}
	return c, nil
}

// end is what the server says when a backup ends.
type end struct {
	lsn           wal.LSN
	label, spaces []byte
	at            time.Time
}

// stop ends the backup, without waiting for the archive: we know better what has arrived.
func (s *server) stop(ctx context.Context) (end, error) {
	sql := "select b.lsn::text, b.labelfile, b.spcmapfile, clock_timestamp() from pg_backup_stop(false) b"
	if s.major < 15 {
		sql = "select b.lsn::text, b.labelfile, b.spcmapfile, clock_timestamp() from pg_stop_backup(false, false) b"
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var e end
	var at, label, spaces string
	if err := s.direct(ctx); err != nil {
		return end{}, err
	}
	if err := s.conn.QueryRow(ctx, sql).Scan(&at, &label, &spaces, &e.at); err != nil {
		return end{}, ErrServer.WithCause(fmt.Errorf("stop the backup: %w", err))
	}
	e.label, e.spaces, e.at = []byte(label), []byte(spaces), e.at.UTC()
	var err error
	e.lsn, err = wal.ParseLSN(at)
	return e, err
}

// switchSegment ends the open segment so that it is archived, and returns up to where the log goes.
func (s *server) switchSegment(ctx context.Context) (wal.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var at string
	if err := s.conn.QueryRow(ctx, "select pg_catalog.pg_switch_wal()::text").Scan(&at); err != nil {
		return 0, ErrServer.WithCause(fmt.Errorf("switch to a new segment: %w", err))
	}
	return wal.ParseLSN(at)
}

// ping shows that the session is alive.
func (s *server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.conn.Ping(ctx); err != nil {
		return ErrServer.WithCause(fmt.Errorf("the session of the backup: %w", err))
	}
	return nil
}
