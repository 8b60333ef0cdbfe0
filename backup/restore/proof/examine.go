package proof

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/pgdata"
	"rootstream/backup/restore"
	"rootstream/backup/restore/plan"
	"rootstream/errs"
	"rootstream/internal/wait"
	"rootstream/pgserver"
)

// ErrCorrupt says that a restored cluster is not sound.
var ErrCorrupt = errs.New(errs.Internal, "restore_corrupt", "the restored cluster is damaged")

// planted is what a living server was given, to be found again.
type planted struct {
	point string
	row   uuid.UUID // zero where the schema is not ours
	in    string    // database
}

const (
	plantTime = 30 * time.Second
	lookAgain = 500 * time.Millisecond
	tellMost  = 20 // of the things that are wrong
)

// plantIn writes a row, where there is the table for it, and then a restore point, and sends the log on its way.
func plantIn(ctx context.Context, dsn string) (planted, error) {
	ctx, cancel := context.WithTimeout(ctx, plantTime)
	defer cancel()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return planted{}, fmt.Errorf("connect to the living server: %w", err)
	}
	cfg.RuntimeParams["search_path"] = "pg_catalog" // what users have named alike is not meant
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return planted{}, fmt.Errorf("connect to the living server: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	p := planted{point: "rootstream-proof-" + uuid.NewString()}
	if err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
		p.row, p.in, err = plantRow(ctx, tx)
		return err
	}); err != nil {
		return planted{}, err
	}
	if _, err = conn.Exec(ctx, "select pg_create_restore_point($1)", p.point); err != nil {
		return planted{}, fmt.Errorf("create a restore point: %w", err)
	}
	if _, err = conn.Exec(ctx, "select pg_switch_wal()"); err != nil {
		return planted{}, fmt.Errorf("switch the log: %w", err)
	}
	return p, nil
}

// isCanaries finds the table as our migration makes it. We are a superuser, perhaps, and it may be somebody else's: any
// trigger, rule, default or expression besides would run with our rights.
const isCanaries = `select exists (select from pg_class c where oid = to_regclass('public.backup_canary') and relkind = 'r'
		and not (relhastriggers or relhasrules or relrowsecurity or relhassubclass or relispartition)
		and not exists (select from pg_constraint where conrelid = c.oid and contype not in ('p', 'n'))
		and not exists (select from pg_index where indrelid = c.oid and (indexprs is not null or indpred is not null))
		and (select array_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid)) order by attnum)
			from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
			where attrelid = c.oid and attnum > 0 and not attisdropped) = array['id uuid', 'planted_at timestamp with time zone now()'])`

// plantRow writes a row, if there is our table for it, and names the database. The lock keeps what was looked at as it is.
func plantRow(ctx context.Context, tx pgx.Tx) (row uuid.UUID, in string, err error) {
	var there, ours bool
	err = tx.QueryRow(ctx, "select to_regclass('public.backup_canary') is not null, current_database()").Scan(&there, &in)
	if err == nil && there {
		_, err = tx.Exec(ctx, "lock table public.backup_canary in row exclusive mode")
	}
	if err == nil && there {
		err = tx.QueryRow(ctx, isCanaries).Scan(&ours)
	}
	if err != nil {
		return row, in, fmt.Errorf("look for the table of canaries: %w", err)
	}
	if !ours {
		return row, in, nil
	}
	row = uuid.New()
	if _, err = tx.Exec(ctx, `with old as (delete from public.backup_canary where planted_at < now() - interval '1 day')
		insert into public.backup_canary (id) values ($1)`, row); err != nil {
		return row, in, fmt.Errorf("plant a canary: %w", err)
	}
	return row, in, nil
}

// awaitArrival tries again while the log of a restore point is on its way.
func awaitArrival(ctx context.Context, try func() (*restore.Job, error)) (*restore.Job, error) {
	var missing error
	for {
		j, err := try()
		switch {
		case errors.Is(err, plan.ErrOutside) || errors.Is(err, ledger.ErrGap):
			missing = err
		case missing == nil || ctx.Err() == nil:
			return j, err
		}
		if wait.For(ctx, lookAgain) != nil {
			return nil, fmt.Errorf("what was planted does not arrive in the repository: %w", missing)
		}
	}
}

// examine looks at every relation of every database.
func (t *trial) examine(ctx context.Context, server *pgserver.Server) error {
	names, err := databases(ctx, server)
	if err != nil {
		return err
	}
	var tables, indexes, without int
	for _, name := range names {
		done, err := t.examineOne(ctx, server, name)
		if err != nil {
			return fmt.Errorf("database %s: %w", name, err)
		}
		tables, indexes = tables+done.tables, indexes+done.indexes
		if !done.amcheck {
			without++
		}
	}
	t.facts["databases"], t.facts["tables"], t.facts["indexes"] = strconv.Itoa(len(names)), strconv.Itoa(tables), strconv.Itoa(indexes)
	t.facts["amcheck"] = "every table and B-tree index"
	if without > 0 {
		t.facts["amcheck"] = fmt.Sprintf("not available in %d of %d databases", without, len(names))
	}
	return nil
}

func databases(ctx context.Context, server *pgserver.Server) ([]string, error) {
	conn, err := connect(ctx, server, "postgres")
	if err != nil {
		if conn, err = connect(ctx, server, "template1"); err != nil {
			return nil, err
		}
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	rows, err := conn.Query(ctx, "select datname from pg_database where datallowconn order by 1")
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// connect opens a session in which nothing of the database's own settings acts.
func connect(ctx context.Context, server *pgserver.Server, database string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(server.DSN("postgres"))
	if err != nil {
		return nil, fmt.Errorf("connect to the restored server: %w", err)
	}
	cfg.Database = database
	cfg.RuntimeParams["options"] = "-c session_preload_libraries= -c local_preload_libraries= -c default_transaction_read_only=off" +
		" -c statement_timeout=0 -c lock_timeout=0 -c search_path=pg_catalog"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the restored server: %w", err)
	}
	return conn, nil
}

type examined struct {
	tables, indexes int
	amcheck         bool
}

func (t *trial) examineOne(ctx context.Context, server *pgserver.Server, database string) (examined, error) {
	var done examined
	conn, err := connect(ctx, server, database)
	if err != nil {
		return done, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err = silence(ctx, conn); err != nil {
		return done, err
	}
	if t.plant.in == database && t.plant.row != uuid.Nil {
		if err = t.plant.find(ctx, conn); err != nil {
			return done, err
		}
		t.facts["canary"] = "found"
	}
	if err = conn.QueryRow(ctx, "select count(*) > 0 from pg_available_extensions where name = 'amcheck'").Scan(&done.amcheck); err != nil || !done.amcheck {
		return done, err
	}
	if _, err = conn.Exec(ctx, "create schema rootstream_proof; create extension if not exists amcheck schema rootstream_proof"); err != nil {
		return done, fmt.Errorf("install amcheck: %w", err)
	}
	var schema string
	if err = conn.QueryRow(ctx, `select quote_ident(nspname) from pg_extension e join pg_namespace n on n.oid = extnamespace
		where extname = 'amcheck'`).Scan(&schema); err != nil {
		return done, fmt.Errorf("find amcheck: %w", err)
	}
	var wrong, more []error
	if done.tables, wrong, err = each(ctx, conn, `select oid::regclass::text, oid from pg_class where relkind in ('r', 'm', 't')
		and relpersistence = 'p' and relam = 2`, heapChecker(conn, schema)); err != nil {
		return done, err
	}
	if done.indexes, more, err = each(ctx, conn, `select c.oid::regclass::text, c.oid from pg_class c join pg_am a on a.oid = relam
		join pg_index i on indexrelid = c.oid where relkind = 'i' and amname = 'btree' and relpersistence = 'p' and indisvalid and indisready`,
		indexChecker(conn, schema)); err != nil {
		return done, err
	}
	return done, corrupt(append(wrong, more...))
}

// silence turns the event triggers off that the cluster brought along, before anything is defined that they would act on.
func silence(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "select format('alter event trigger %I disable', evtname) from pg_event_trigger where evtenabled <> 'D'")
	if err != nil {
		return fmt.Errorf("list event triggers: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, off := range all {
		if err == nil {
			_, err = conn.Exec(ctx, off)
		}
	}
	if err != nil {
		return fmt.Errorf("turn event triggers off: %w", err)
	}
	return nil
}

type checker func(ctx context.Context, oid uint32) error

func heapChecker(conn *pgx.Conn, schema string) checker {
	return func(ctx context.Context, oid uint32) error {
		var said *string
		err := conn.QueryRow(ctx, `select string_agg(format('block %s: %s', blkno, msg), '; ')
			from (select * from `+schema+`.verify_heapam($1, check_toast := true) limit 5) v`, oid).Scan(&said)
		if err == nil && said != nil {
			err = errors.New(*said)
		}
		return err
	}
}

func indexChecker(conn *pgx.Conn, schema string) checker {
	return func(ctx context.Context, oid uint32) error {
		_, err := conn.Exec(ctx, "select "+schema+".bt_index_check($1, true)", oid)
		return err
	}
}

// each looks at relations one by one, and goes on to the next when one is damaged.
func each(ctx context.Context, conn *pgx.Conn, list string, look checker) (int, []error, error) {
	rows, err := conn.Query(ctx, list)
	if err != nil {
		return 0, nil, fmt.Errorf("list relations: %w", err)
	}
	type relation struct {
		Name string
		OID  uint32
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
	if err != nil {
		return 0, nil, fmt.Errorf("list relations: %w", err)
	}
	var wrong []error
	for _, r := range all {
		if err := look(ctx, r.OID); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", r.Name, err))
		}
		if conn.IsClosed() || ctx.Err() != nil {
			return len(all), wrong, errors.Join(append(wrong, ctx.Err())...)
		}
	}
	return len(all), wrong, nil
}

func corrupt(wrong []error) error {
	if len(wrong) == 0 {
		return nil
	}
	more := ""
	if len(wrong) > tellMost {
		more = fmt.Sprintf(", and %d more", len(wrong)-tellMost)
		wrong = wrong[:tellMost]
	}
	var text []string
	for _, err := range wrong {
		text = append(text, err.Error())
	}
	return ErrCorrupt.WithCause(errors.New(strings.Join(text, "; ") + more))
}

// find looks for the row that was planted.
func (p planted) find(ctx context.Context, conn *pgx.Conn) error {
	var found bool
	if err := conn.QueryRow(ctx, "select exists (select from public.backup_canary where id = $1)", p.row).Scan(&found); err != nil {
		return fmt.Errorf("look for the canary: %w", err)
	}
	if !found {
		return ErrCorrupt.WithCause(errors.New("the row that was planted before the restore point is not there"))
	}
	return nil
}

// readPages checks the checksum of every block of the stopped cluster with our own reader.
func (t *trial) readPages(ctx context.Context, j *restore.Job) error {
	if !j.Manifest.Cluster.DataChecksums {
		t.facts["pages"] = "the cluster has no checksums"
		return nil
	}
	pages, err := checkPages(ctx, j.Config.Dir)
	t.facts["pages"] = strconv.FormatInt(pages, 10)
	return err
}

// checkPages checks the pages of a stopped cluster and counts them.
func checkPages(ctx context.Context, dir string) (int64, error) {
	control, _, err := pgdata.ReadControl(dir)
	if err != nil {
		return 0, err
	}
	major, err := pgdata.Major(dir)
	if err != nil {
		return 0, err
	}
	var pages int64
	var wrong []error
	buf := make([]byte, 64*control.BlockSize)
	for e, err := range pgdata.Walk(ctx, dir, major, control.Catalog) {
		if err != nil {
			return pages, err
		}
		if !e.Blocks {
			continue
		}
		n, bad, err := checkFile(dir, e, control, buf)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return pages, err
		}
		pages += n
		for _, number := range bad {
			wrong = append(wrong, fmt.Errorf("%s: the checksum of block %d is wrong", e.Path, number))
		}
	}
	return pages, corrupt(wrong)
}

func checkFile(dir string, e pgdata.Entry, control pgdata.Control, buf []byte) (pages int64, bad []uint32, err error) {
	f, err := os.Open(path.Join(dir, e.Path)) //nolint:gosec // a folder that we made
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = f.Close() }()
	number := e.Relation.Segment * control.BlocksPerSegment
	for {
		n, err := io.ReadFull(f, buf)
		for at := 0; at+int(control.BlockSize) <= n; at += int(control.BlockSize) {
			if pgdata.CheckPage(buf[at:at+int(control.BlockSize)], number) == pgdata.Torn {
				bad = append(bad, number)
			}
			number++
			pages++
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return pages, bad, nil
		}
		if err != nil {
			return pages, bad, err
		}
	}
}
