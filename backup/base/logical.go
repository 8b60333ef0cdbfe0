package base

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/pgserver"
)

// A logical backup is files too: roles and tablespaces as SQL, each database as pg_dump's custom format.
const (
	globalsPath = "globals.sql"
	dumpsDir    = "databases"
)

// DumpPath is where a logical backup has a database.
func DumpPath(database string) string { return dumpsDir + "/" + url.PathEscape(database) + ".dump" }

// dump takes a logical backup.
func (t *taking) dump(ctx context.Context) (err error) {
	t.say(Starting)
	tools, err := pgserver.Find(t.server.major) //nolint:contextcheck // a look at files, bounded by itself
	if err != nil {
		return err
	}
	if err = t.identify(ctx); err != nil {
		return err
	}
	if t.listLane, err = t.s.NewLane(t.cfg.Compression); err != nil {
		return err
	}
	t.list = t.r.NewFileWriter(t.listLane)
	t.say(Copying)
	stop := make(chan struct{})
	watched := make(chan error, 1)
	go func() { watched <- t.watch(ctx, stop) }()
	err = t.dumpAll(ctx, tools)
	close(stop)
	if err = errors.Join(err, <-watched); err != nil {
		return err
	}
	if t.m.Files, err = t.list.Close(ctx); err != nil {
		return err
	}
	t.m.Packs, t.m.FileCount, t.m.Size = t.list.Packs(), t.list.Count(), t.list.Size()
	if err = t.listLane.Close(ctx); err != nil {
		return err
	}
	t.m.Completed = time.Now().UTC()
	if err = t.s.Commit(ctx, &t.m); err != nil {
		return err
	}
	t.say(Done)
	return nil
}

// identify fills in what a dump knows of its cluster.
func (t *taking) identify(ctx context.Context) (err error) {
	t.m = repo.Manifest{
		Type: repo.Logical, Tool: t.cfg.Tool, Compression: t.cfg.Compression, Annotations: t.cfg.Annotations,
		Settings: t.server.settings, Databases: t.server.databases, FromStandby: t.server.standby,
	}
	if t.m.StartLSN, t.m.StartTimeline, t.m.Started, err = t.server.position(ctx); err != nil {
		return err
	}
	t.m.StopLSN, t.m.StopTimeline = t.m.StartLSN, t.m.StartTimeline
	t.m.Cluster = repo.Cluster{SystemID: t.server.system, Major: t.server.major}
	t.m.ID, err = newID(t.m.Started, repo.Logical)
	return err
}

func (t *taking) dumpAll(ctx context.Context, tools pgserver.Installation) error {
	if err := t.list.Write(ctx, repo.File{Path: dumpsDir, Kind: repo.Dir, Mode: 0o700}); err != nil {
		return err
	}
	databases := slices.SortedFunc(slices.Values(t.server.databases), func(a, b repo.Database) int {
		return pgdata.ComparePaths(DumpPath(a.Name), DumpPath(b.Name))
	})
	for _, db := range databases {
		p := program{dsn: t.cfg.DSN, database: db.Name, path: tools.Bin("pg_dump"), args: []string{"--format=custom", "--compress=0"}}
		if err := t.keep(ctx, DumpPath(db.Name), p); err != nil {
			return err
		}
	}
	return t.keep(ctx, globalsPath, program{dsn: t.cfg.DSN, database: t.server.conn.Config().Database, path: tools.Bin("pg_dumpall"), args: []string{"--globals-only"}})
}

// keep stores what a program writes as a file.
func (t *taking) keep(ctx context.Context, path string, p program) error {
	k := &keeper{t: t, ctx: ctx, hasher: t.r.NewHasher(), file: repo.File{Path: path, Kind: repo.Regular, Mode: 0o600, ModTime: time.Now().UnixNano()}}
	if err := p.run(ctx, nil, k); err != nil {
		return err
	}
	return k.close()
}

// keeper is a writer that cuts what is written to it into blobs.
type keeper struct {
	t      *taking
	ctx    context.Context //nolint:containedctx // an io.Writer has no other way to get it; it lives as long as one call
	hasher *repo.Hasher
	file   repo.File
	buf    []byte
	hashes []byte // of all pages
	listed int    // of hashes: those in blobs of their own
}

func (k *keeper) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), chunkBytes-len(k.buf))
		k.buf, rest = append(k.buf, rest[:n]...), rest[n:]
		if len(k.buf) == chunkBytes {
			if err := k.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (k *keeper) flush() error {
	if len(k.buf) == 0 {
		return nil
	}
	begin := len(k.hashes)
	for _, one := range pages(k.buf) {
		hash := k.hasher.Sum(one)
		k.hashes = append(k.hashes, hash[:]...)
	}
	hash := k.hasher.Sum(k.hashes[begin:])
	blob, found := k.t.known.find(hash)
	if !found || int(blob.Raw) != len(k.buf) || !k.t.s.MayReuse(blob.Pack) {
		var err error
		if blob, err = k.t.listLane.Add(k.ctx, hash, k.buf); err != nil {
			return err
		}
	}
	e := repo.Extent{Page: uint32(k.file.Size / pageSize), Pages: uint32((len(k.buf) + pageSize - 1) / pageSize), Blob: blob} //nolint:gosec // dumps have less than 2^32 pages
	k.file.Extents = append(k.file.Extents, e)
	k.file.Size += int64(len(k.buf))
	k.t.progress.bytes.Add(int64(len(k.buf)))
	k.buf = k.buf[:0]
	if len(k.hashes)-k.listed == unitPages*len(hash) {
		return k.list()
	}
	return nil
}

// list stores the page hashes that are not listed yet.
func (k *keeper) list() error {
	blob, err := k.t.listLane.Add(k.ctx, repo.Hash{}, k.hashes[k.listed:])
	if err != nil {
		return err
	}
	k.file.Hashes = append(k.file.Hashes, blob)
	k.listed = len(k.hashes)
	return nil
}

func (k *keeper) close() error {
	if err := k.flush(); err != nil {
		return err
	}
	if k.file.Size > fewPages*pageSize && k.listed < len(k.hashes) {
		if err := k.list(); err != nil {
			return err
		}
	}
	k.file.Hash = k.hasher.Sum(k.hashes)
	k.t.progress.files.Add(1)
	return k.t.list.Write(k.ctx, k.file)
}

// Export writes a file of a backup, a dump for example, to w.
func Export(ctx context.Context, r *repo.Repo, m repo.Manifest, path string, w io.Writer) error {
	for f, err := range r.Files(ctx, m) {
		if err != nil {
			return err
		}
		if f.Path == path && f.Kind == repo.Regular {
			return export(ctx, r, f, w)
		}
	}
	return repo.ErrNoBackup.WithCause(fmt.Errorf("backup %s has no file %s", m.ID, path))
}

func export(ctx context.Context, r *repo.Repo, f repo.File, w io.Writer) error {
	var plain []byte
	var err error
	left := f.Size
	for _, e := range f.Extents {
		n := min(int64(e.Pages)*pageSize, left)
		if e.Blob.Raw == 0 {
			plain = append(plain[:0], make([]byte, n)...)
		} else if plain, err = r.Read(ctx, e.Blob, plain); err != nil {
			return err
		}
		from := int64(e.At) * pageSize
		if from+n > int64(len(plain)) {
			return repo.ErrDamaged.WithCause(fmt.Errorf("%s ends early", f.Path))
		}
		if _, err = w.Write(plain[from : from+n]); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// Load restores a database of a logical backup into an existing one, which should be empty.
func Load(ctx context.Context, r *repo.Repo, m repo.Manifest, database, dsn string) error {
	if m.Type != repo.Logical {
		return repo.ErrNoBackup.WithCause(fmt.Errorf("%s is not a logical backup", m.ID))
	}
	tools, err := pgserver.Find(m.Cluster.Major) //nolint:contextcheck // a look at files, bounded by itself
	if err != nil {
		return err
	}
	target, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return ErrServer.WithCause(fmt.Errorf("read the DSN: %w", err))
	}
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		failed := Export(ctx, r, m, DumpPath(database), in)
		_ = in.CloseWithError(failed)
		done <- failed
	}()
	p := program{dsn: dsn, database: target.Database, path: tools.Bin("pg_restore"), args: []string{"--exit-on-error", "--single-transaction", "--dbname=" + target.Database}}
	err = p.run(ctx, out, io.Discard)
	_ = out.CloseWithError(err)
	if failed := <-done; failed != nil && err == nil {
		return failed
	}
	return err
}

// program is one of PostgreSQL's that connects to a server.
type program struct {
	dsn, database, path string
	args                []string
}

// run gives the program the address in its environment: what is in its arguments, every user of the machine can read.
func (p program) run(ctx context.Context, in io.Reader, out io.Writer) error {
	env, err := environment(p.dsn, p.database)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, p.path, p.args...) //nolint:gosec // a program of the installation
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, in, out, &said
	cmd.WaitDelay = patience
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		const most = 2000
		text := said.String()
		return ErrTool.WithCause(fmt.Errorf("%s of %s: %w: %s", p.path, p.database, err, strings.TrimSpace(text[max(0, len(text)-most):])))
	}
	return nil
}

// tlsOption finds what a DSN in either form says about TLS: libpq's programs take it from PGSSL… of the same name.
var tlsOption = regexp.MustCompile(`(?:^|[\s?&])(sslmode|sslrootcert|sslcert|sslkey)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]*)`)

func environment(dsn, database string) ([]string, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, ErrServer.WithCause(fmt.Errorf("read the DSN: %w", err))
	}
	env := []string{
		"PGHOST=" + cfg.Host, "PGPORT=" + strconv.Itoa(int(cfg.Port)), "PGUSER=" + cfg.User, "PGPASSWORD=" + cfg.Password, "PGDATABASE=" + database,
		"PGAPPNAME=rootstream backup", "PGCLIENTENCODING=UTF8", "LC_ALL=C.UTF-8", "PGOPTIONS=-c statement_timeout=0 -c idle_in_transaction_session_timeout=0",
	}
	for _, name := range []string{"PATH", "HOME", "TZ", "LD_LIBRARY_PATH"} {
		if v, set := os.LookupEnv(name); set {
			env = append(env, name+"="+v)
		}
	}
	for _, m := range tlsOption.FindAllStringSubmatch(dsn, -1) {
		value := strings.Trim(m[2], "'")
		if plain, failed := url.QueryUnescape(value); failed == nil && strings.Contains(dsn, "://") {
			value = plain
		}
		env = append(env, "PG"+strings.ToUpper(m[1])+"="+value)
	}
	return env, nil
}
