package wire_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"

	"rootstream/backup/base/wire"
	"rootstream/backup/pgdata"
	"rootstream/pgserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sender is a server with a tablespace.
type sender struct {
	*pgserver.Server
	catalog  uint32
	warnings []pgproto3.BackendMessage // that are added before a row
}

func newSender(t *testing.T) *sender {
	t.Helper()
	server, err := pgserver.Throwaway(t.Context(), pgserver.ThrowawayConfig{SocketOnly: true, Params: map[string]string{"wal_level": "replica", "autovacuum": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err = server.Discard(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	s := &sender{Server: server}
	space := filepath.Join(filepath.Dir(server.DataDir()), "space")
	if err = server.Account().MkdirAll(space); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"create tablespace elsewhere location '" + space + "'", "create table there tablespace elsewhere as select generate_series(1, 1000) n", "checkpoint"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.QueryRow(t.Context(), "select catalog_version_no from pg_control_system()").Scan(&s.catalog); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// meddle changes what the server copies to a client; nil passes it on.
type meddle func(data []byte) [][]byte

// through passes connections on to the server, and changes what it copies.
func (s *sender) through(t *testing.T, change meddle) (dsn string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			client, failed := l.Accept()
			if failed != nil {
				return
			}
			server, failed := new(net.Dialer).DialContext(context.Background(), "unix", fmt.Sprintf("%s/.s.PGSQL.%d", s.SocketDir(), s.Port()))
			if failed != nil {
				_ = client.Close()
				return
			}
			all.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
			all.Go(func() { s.pass(client, server, change); _ = client.Close() })
		}
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("host=127.0.0.1 port=%s user=%s dbname=postgres sslmode=disable", port, s.Superuser())
}

// warning passes connections on to the server, which warns n times before its first row.
func (s *sender) warning(t *testing.T, n int, text string) (dsn string) {
	t.Helper()
	s.warnings = slices.Repeat([]pgproto3.BackendMessage{&pgproto3.NoticeResponse{SeverityUnlocalized: "WARNING", Message: text}}, n)
	return s.through(t, nil)
}

func (s *sender) pass(client, server net.Conn, change meddle) {
	for front := pgproto3.NewFrontend(server, nil); ; {
		msg, err := front.Receive()
		if err != nil {
			return
		}
		messages := []pgproto3.BackendMessage{msg}
		if _, ok := msg.(*pgproto3.DataRow); ok {
			messages = append(slices.Clone(s.warnings), msg)
		}
		if m, ok := msg.(*pgproto3.CopyData); ok && change != nil {
			if changed := change(m.Data); changed != nil {
				messages = nil
				for _, data := range changed {
					messages = append(messages, &pgproto3.CopyData{Data: data})
				}
			}
		}
		var raw []byte
		for _, m := range messages {
			if raw, err = m.Encode(raw); err != nil {
				return
			}
		}
		if _, err := client.Write(raw); err != nil {
			return
		}
	}
}

// receive takes a base backup, and hands each entry with its content to look.
func (s *sender) receive(ctx context.Context, dsn string, look func(wire.Entry, []byte)) (*wire.Backup, error) {
	c, err := wire.Connect(ctx, wire.Config{DSN: dsn, Silence: 3 * time.Second})
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	b, err := c.Begin(ctx, wire.Request{Major: s.Installation().Major, Catalog: s.catalog, Label: "a 'label'", Fast: true})
	if err != nil {
		return nil, err
	}
	for e, err := range b.Entries(ctx) {
		if err != nil {
			return nil, err
		}
		var content []byte
		if e.Body != nil && strings.HasPrefix(e.Path, "base/1/") { // some are passed over
			if content, err = io.ReadAll(e.Body); err != nil {
				return nil, err
			}
		}
		if look != nil {
			look(e, content)
		}
	}
	return b, nil
}

func TestAllThatACopyNeedsArrivesAsItIs(t *testing.T) {
	t.Parallel()
	s := newSender(t)
	want := map[string]pgdata.Entry{}
	for e, err := range pgdata.Walk(t.Context(), s.DataDir(), s.Installation().Major, s.catalog) {
		if err != nil {
			t.Fatal(err)
		}
		want[e.Path] = e
	}
	delete(want, pgdata.ControlPath)
	read := 0
	b, err := s.receive(t.Context(), s.DSN("postgres"), func(e wire.Entry, content []byte) {
		is, known := want[e.Path]
		delete(want, e.Path)
		if !known || is.Kind != e.Kind || is.Mode != e.Mode || is.Size != e.Size || is.Target != e.Target || is.Blocks != e.Blocks || is.Relation != e.Relation {
			t.Errorf("%+v came, the folder has %+v", e.Entry, is)
		}
		if content == nil {
			return
		}
		read++
		if there, err := os.ReadFile(filepath.Join(s.DataDir(), e.Path)); err != nil || !bytes.Equal(there, content) {
			t.Errorf("%s: %d bytes came, %d are there, %v", e.Path, len(content), len(there), err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(want) > 0 || read < 100 {
		t.Errorf("%d files were compared; what did not come: %v", read, want)
	}
	label, err := pgdata.ParseLabel(b.End().Label)
	if err != nil || label.Name != "a 'label'" || label.Start != b.Start || label.Timeline != b.Timeline {
		t.Errorf("%+v of %+v, %v", label, b, err)
	}
	spaces, err := pgdata.ParseTablespaceMap(b.End().Spaces)
	if err != nil || len(spaces) != 1 || len(b.Tablespaces) != 1 || spaces[0] != b.Tablespaces[0] {
		t.Errorf("tablespaces %v and %v, %v", spaces, b.Tablespaces, err)
	}
	control, err := pgdata.ParseControl(b.End().Control)
	if err != nil || control.Catalog != s.catalog || b.End().Stop <= b.Start || b.End().WrongPages || b.Size < 20<<20 {
		t.Errorf("%+v of %+v, %v", control, b, err)
	}
}

const file = "base/1/PG_VERSION"

// header rewrites the first tar header of a file that is in every database, with a right checksum.
func header(rewrite func(*tar.Header)) meddle {
	done := false
	return func(data []byte) [][]byte {
		const block = 512
		if done || len(data) != 1+block || data[0] != 'd' {
			return nil
		}
		h, err := tar.NewReader(bytes.NewReader(data[1:])).Next()
		if err != nil || !strings.HasSuffix(h.Name, file) {
			return nil
		}
		done = true
		rewrite(h)
		var b bytes.Buffer
		b.WriteByte('d')
		if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
			b.WriteString(err.Error())
		}
		return [][]byte{b.Bytes()}
	}
}

func renamed(name string) meddle {
	return header(func(h *tar.Header) { h.Name = name })
}

// manifest rewrites the messages that follow its announcement.
func manifest(rewrite func([]byte) [][]byte) meddle {
	begun := false
	return func(data []byte) [][]byte {
		if !begun {
			begun = data[0] == 'm'
			return nil
		}
		if data[0] != 'd' {
			return nil
		}
		return rewrite(data)
	}
}

func replaced(old, by string) meddle {
	return manifest(func(data []byte) [][]byte { return [][]byte{bytes.Replace(data, []byte(old), []byte(by), 1)} })
}

// once changes the first message that fits.
func once(fits func([]byte) bool, change func([]byte) [][]byte) meddle {
	done := false
	return func(data []byte) [][]byte {
		if done || !fits(data) {
			return nil
		}
		done = true
		return change(data)
	}
}

func kind(k byte) func([]byte) bool { return func(data []byte) bool { return data[0] == k } }

// forged is a manifest with a right checksum.
func forged(lines string) meddle {
	sent := false
	return manifest(func([]byte) [][]byte {
		if sent {
			return [][]byte{}
		}
		sent = true
		return [][]byte{fmt.Appendf([]byte{'d'}, "%s\"Manifest-Checksum\": \"%x\"}\n", lines, sha256.Sum256([]byte(lines)))}
	})
}

func TestWhatNoServerSendsIsRefused(t *testing.T) {
	t.Parallel()
	s := newSender(t)
	if _, err := s.receive(t.Context(), s.through(t, nil), nil); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	for _, tt := range []struct {
		name   string
		change meddle
		says   string
	}{
		{"a name that leads up", renamed("base/../../etc/cron.d/x"), "leads elsewhere"},
		{"a name that is absolute", renamed("/etc/passwd"), "leads elsewhere"},
		{"no name", renamed("."), "leads elsewhere"},
		{"a tablespace's file in the data folder", renamed("pg_tblspc/16384/PG_15_1/1/2"), "archive of its tablespace"},
		{"a link", header(func(h *tar.Header) { h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, "/etc/shadow", 0 }), "is of type"},
		{"a device", header(func(h *tar.Header) { h.Typeflag, h.Size = tar.TypeChar, 0 }), "is of type"},
		{"an extension of tar", header(func(h *tar.Header) { h.PAXRecords = map[string]string{"VENDOR.x": "1"} }), "is of type"},
		{"a file without end", header(func(h *tar.Header) { h.Format, h.Size = tar.FormatGNU, 1<<50 }), "1125899906842624 bytes"},
		{"a file that is cut", header(func(h *tar.Header) { h.Size = 2 }), ""},
		{"a file twice", renamed("base/4/PG_VERSION"), "PG_VERSION"},
		{"a file under another name", renamed("base/1/7654321"), "has not arrived"},
		{"a file that is not a file", renamed("base"), "has not arrived"},
		{"other content", once(func(d []byte) bool { return bytes.HasPrefix(d, []byte("d15\n")) }, func(d []byte) [][]byte {
			d[1] ^= 1
			return [][]byte{d}
		}), "has checksum"},
		{"a message of no kind", once(kind('d'), func([]byte) [][]byte { return [][]byte{{'?', 1}} }), "none of the protocol's"},
		{"an empty message", once(kind('d'), func([]byte) [][]byte { return [][]byte{{}} }), "none of the protocol's"},
		{"data of no archive", once(kind('n'), func([]byte) [][]byte { return [][]byte{} }), ""},
		{"another archive", once(kind('n'), func([]byte) [][]byte { return [][]byte{[]byte("n1.tar\x00/tmp\x00")} }), "in the place of"},
		{"an archive without a name", once(kind('n'), func([]byte) [][]byte { return [][]byte{[]byte("nbase.tar")} }), "none of the protocol's"},
		{"the manifest too early", once(kind('n'), func([]byte) [][]byte { return [][]byte{{'m'}} }), "in the place of"},
		{"an archive in the place of the manifest", once(kind('m'), func([]byte) [][]byte { return [][]byte{[]byte("nbase.tar\x00\x00")} }), "in the place of"},
		{"no manifest", once(kind('m'), func([]byte) [][]byte { return [][]byte{} }), ""},
		{"a manifest that was changed", replaced(`"Last-Modified": "2`, `"Last-Modified": "3`), "its checksum is"},
		{"a manifest that is not JSON", replaced(`"Files"`, `Files`), "manifest"},
		{"a manifest that is cut", manifest(func([]byte) [][]byte { return [][]byte{} }), "manifest"},
		{"a manifest of another log", forged(`{"Files": [],` + "\n" + `"WAL-Ranges": [],` + "\n"), "does not list"},
		{"a manifest with a file too many", forged(`{"Files": [{"Path": "base/9/9", "Size": 0, "Checksum-Algorithm": "CRC32C", "Checksum": "00000000"}],` + "\n"), "has not arrived"},
		{"a manifest with a line without end", manifest(func([]byte) [][]byte {
			return [][]byte{append([]byte(`d{"Files": "`), bytes.Repeat([]byte("x"), 300<<10)...)}
		}), "too long"},
		{"a manifest of one long value", manifest(func([]byte) [][]byte {
			return [][]byte{append([]byte("d{\"Files\": [{"), bytes.Repeat([]byte("\"x\": 1,\n"), 40<<10)...)}
		}), "too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := s.receive(t.Context(), s.through(t, tt.change), nil)
			if !errors.Is(err, wire.ErrStream) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

func TestWarningsWithoutEndAreToldUpToABound(t *testing.T) {
	t.Parallel()
	s := newSender(t)
	var told []string
	long := strings.Repeat("x", 9_000)
	warned := s.warning(t, 150, long)
	c, err := wire.Connect(t.Context(), wire.Config{DSN: warned, Notice: func(text string) { told = append(told, text) }})
	if err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
	if len(told) != 101 || told[0] != long[:1000] || !strings.Contains(told[100], "more than 100 warnings") {
		t.Errorf("%d warnings: %.30q", len(told), told)
	}
}

func TestTheServerIsAskedInItsVersionsGrammar(t *testing.T) {
	t.Parallel()
	for major, want := range map[int]string{
		14: "BASE_BACKUP LABEL 'it''s' PROGRESS TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C' MAX_RATE 2048 NOWAIT FAST",
		15: "BASE_BACKUP (LABEL 'it''s', PROGRESS, TABLESPACE_MAP, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', MAX_RATE 2048, WAIT false, CHECKPOINT 'fast')",
	} {
		if got := wire.Command(wire.Request{Major: major, Label: "it's", Fast: true, Rate: 2 << 20}); got != want {
			t.Errorf("%d: %s", major, got)
		}
	}
	for rate, want := range map[int64]string{1: "MAX_RATE 32", 5 << 40: "MAX_RATE 1048576"} { // what the server takes
		if got := wire.Command(wire.Request{Major: 18, Rate: rate}); !strings.Contains(got, want+",") {
			t.Errorf("%d bytes a second: %s", rate, got)
		}
	}
}

func TestAServerThatIsNotThereIsSaidToBe(t *testing.T) {
	t.Parallel()
	port, err := pgserver.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = wire.Connect(t.Context(), wire.Config{DSN: "host=127.0.0.1 user=x password=hidden sslmode=disable port=" + strconv.Itoa(port)})
	if !errors.Is(err, wire.ErrConnect) || strings.Contains(err.Error(), "hidden") {
		t.Errorf("got %v", err)
	}
	if _, err = wire.Connect(t.Context(), wire.Config{DSN: "postgres://x:hidden@[::1"}); !errors.Is(err, wire.ErrConnect) || strings.Contains(err.Error(), "hidden") {
		t.Errorf("got %v", err)
	}
}
