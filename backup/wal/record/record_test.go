package record_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"rootstream/backup/wal"
	"rootstream/backup/wal/record"
	"rootstream/pgserver"
)

func server(t *testing.T) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{
		SocketOnly: true, Params: map[string]string{"full_page_writes": "on", "wal_keep_size": "1GB", "max_prepared_transactions": "5"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := s.Discard(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// text asks for one value.
func text(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	var v string
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func exec1(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func lsn(t *testing.T, text string) wal.LSN {
	t.Helper()
	l, err := wal.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// scan reads a server's own log.
func scan(t *testing.T, s *pgserver.Server, from wal.LSN) []record.Record {
	t.Helper()
	const size = wal.DefaultSegmentSize
	var all []record.Record
	for r, err := range record.Scan(from, size, func(start wal.LSN) ([]byte, error) {
		data, err := os.ReadFile(filepath.Join(s.DataDir(), "pg_wal", wal.SegmentName(1, start, size)))
		if os.IsNotExist(err) {
			return nil, record.ErrEnd
		}
		return data, err
	}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestScanFindsWhatPgWaldumpFinds(t *testing.T) {
	t.Parallel()
	s := server(t)
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	exec1(t, conn, "checkpoint")
	from := lsn(t, text(t, conn, "select redo_lsn::text from pg_control_checkpoint()"))
	exec1(t, conn, "create table filler (id int primary key, v text)")
	for i := range 30 {
		exec1(t, conn, "insert into filler select g, repeat(md5(g::text), 60) from generate_series("+strconv.Itoa(i*1000)+", "+strconv.Itoa(i*1000+999)+") g")
		if i%10 == 5 {
			exec1(t, conn, "begin; delete from filler where id % 7 = 0; rollback")
			exec1(t, conn, "select pg_create_restore_point('point "+strconv.Itoa(i)+"')")
			exec1(t, conn, "select pg_switch_wal()")
		}
	}
	exec1(t, conn, "begin; insert into filler values (-1, 'x'); prepare transaction 'p'")
	exec1(t, conn, "commit prepared 'p'")
	place := filepath.Join(filepath.Dir(s.DataDir()), "space")
	if err := s.Account().MkdirAll(place); err != nil {
		t.Fatal(err)
	}
	exec1(t, conn, "create tablespace outside location '"+place+"'")
	end := lsn(t, text(t, conn, "select pg_current_wal_insert_lsn()::text"))
	exec1(t, conn, "checkpoint") // so that all of it is in the files

	var got []string
	for _, r := range scan(t, s, from) {
		if r.Start >= end {
			break
		}
		switch r.Kind {
		case record.Commit:
			got = append(got, r.Start.String()+" COMMIT "+strconv.FormatUint(uint64(r.XID), 10))
		case record.Abort:
			got = append(got, r.Start.String()+" ABORT "+strconv.FormatUint(uint64(r.XID), 10))
		case record.RestorePoint:
			got = append(got, r.Start.String()+" POINT "+r.Name)
		case record.Tablespace:
			got = append(got, r.Start.String()+" SPACE "+r.Name)
		}
		if r.Kind != record.Tablespace && time.Since(r.Time).Abs() > time.Hour {
			t.Errorf("%v is of %v", r.Start, r.Time)
		}
	}
	want := dumped(t, s, from, end)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-pg_waldump +Scan):\n%s", diff)
	}
	if len(got) < 40 {
		t.Errorf("only %d records, the test shows nothing", len(got))
	}
}

var dumpLine = regexp.MustCompile(`rmgr: (\w+) .*tx: +(\d+), lsn: (\w+/\w+), .*desc: (\w+)(.*)`)

// dumped is what PostgreSQL's own reader says.
func dumped(t *testing.T, s *pgserver.Server, from, end wal.LSN) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Installation().Bin("pg_waldump"), "-p", filepath.Join(s.DataDir(), "pg_wal"), "-s", from.String(), "-e", end.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		m := dumpLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			t.Fatalf("cannot read %q", line)
		}
		at, rest := lsn(t, m[3]).String(), strings.TrimSpace(m[5])
		switch m[1] + " " + m[4] {
		case "Transaction COMMIT", "Transaction ABORT":
			all = append(all, at+" "+m[4]+" "+m[2])
		case "Transaction COMMIT_PREPARED":
			all = append(all, at+" COMMIT 0")
		case "XLOG RESTORE_POINT":
			all = append(all, at+" POINT "+rest)
		case "Tablespace CREATE":
			_, place, _ := strings.Cut(rest, `"`)
			all = append(all, at+" SPACE "+strings.TrimSuffix(place, `"`))
		}
	}
	return all
}

func FuzzScanEndsWhateverItIsGiven(f *testing.F) {
	f.Add([]byte{0x10, 0xD1, 2, 0}, uint16(40))
	f.Fuzz(func(t *testing.T, raw []byte, at uint16) {
		const size = wal.MinSegmentSize
		data := make([]byte, size)
		copy(data[copy(data, header(0)):], raw)
		for page := 8192; page < size; page += 8192 {
			copy(data[page:], header(wal.LSN(page))[:24])
			copy(data[page+24:], raw)
		}
		n := 0
		for _, err := range record.Scan(wal.LSN(at), size, func(start wal.LSN) ([]byte, error) {
			if start > 0 {
				return nil, record.ErrEnd
			}
			return data, nil
		}) {
			if n++; err != nil {
				return
			}
			if n > size/8 {
				t.Fatal("more records than there can be")
			}
		}
	})
}

// header is that of a first page of PostgreSQL 15.
func header(at wal.LSN) []byte {
	h := make([]byte, 40)
	h[0], h[1], h[4] = 0x10, 0xD1, 1
	if at == 0 {
		h[2] = 2
	}
	h[8], h[9], h[10] = byte(at), byte(at>>8), byte(at>>16)
	h[34], h[37] = 0x10, 0x20
	return h
}
