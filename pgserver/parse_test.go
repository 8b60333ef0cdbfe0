package pgserver_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/pgserver"
)

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		out, version string
		major        int
		fails        bool
	}{
		{"postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", "15.14", 15, false},
		{"postgres (PostgreSQL) 19devel\n", "19devel", 19, false},
		{"postgres (PostgreSQL) 18beta1", "18beta1", 18, false},
		{"postgres (PostgreSQL) 9.6.24", "9.6.24", 9, false},
		{"mysqld 8", "", 0, true},
		{"", "", 0, true},
	} {
		version, major, err := pgserver.ParseVersion(tt.out)
		if version != tt.version || major != tt.major || (err != nil) != tt.fails {
			t.Errorf("%q: %q, %d, %v", tt.out, version, major, err)
		}
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	full := "4711\n/var/lib/data\n1700000000\n5433\n/run/pg\n127.0.0.1\n  5432001    123456\nready   \n"
	st, err := pgserver.ParseStatus(full)
	if err != nil {
		t.Fatal(err)
	}
	want := pgserver.Status{
		PID: 4711, DataDir: "/var/lib/data", StartedAt: st.StartedAt, Port: 5433, SocketDir: "/run/pg", Listen: "127.0.0.1", State: "ready",
	}
	if diff := cmp.Diff(want, st); diff != "" || st.StartedAt.Unix() != 1700000000 {
		t.Error(diff)
	}
	if st, err := pgserver.ParseStatus("-12\n/d\n"); err != nil || !st.Standalone || st.PID != 12 {
		t.Errorf("single-user mode: %+v, %v", st, err)
	}
	for _, text := range []string{"", "x", "0\n"} {
		if _, err := pgserver.ParseStatus(text); !errors.Is(err, pgserver.ErrNotRunning) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestParsePassFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line, user, pass string
		ok               bool
	}{
		{"*:*:*:ada:secret", "ada", "secret", true},
		{`h\:1:5432:db:a\\b:p\:w`, `a\b`, "p:w", true},
		{"*:*:*:ada:with:colons", "ada", "with:colons", true},
		{"*:*:*:ada:", "ada", "", false},
		{"# comment:a:b:c:d", "", "", false},
		{"too:few", "", "", false},
	} {
		user, pass, ok := pgserver.ParsePass(tt.line)
		if ok != tt.ok || (ok && (user != tt.user || pass != tt.pass)) {
			t.Errorf("%q: %q, %q, %v", tt.line, user, pass, ok)
		}
	}
}

func TestConfigFaultsComeBackAtOnce(t *testing.T) {
	t.Parallel()
	_, err := pgserver.New(pgserver.Config{
		DataDir: "relative", Port: 70000,
		Params: map[string]string{"port": "1", "bad name": "x", "search_path": "a\nb"},
	})
	var fields []string
	for _, f := range errs.FieldsOf(err) {
		fields = append(fields, f.Field)
	}
	got := strings.Join(fields, " ")
	for _, want := range []string{"installation", "data_dir", "port", "params.port", "params.bad name", "params.search_path"} {
		if !strings.Contains(got, want) {
			t.Errorf("no fault for %s in %q", want, got)
		}
	}
	in, err := pgserver.Find(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgserver.New(pgserver.Config{Installation: in, DataDir: "/x", Superuser: "o'hara"}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("superuser: %v", err)
	}
	if _, err := pgserver.New(pgserver.Config{Installation: in, DataDir: "/x", Listen: "127.0.0.1"}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("listen without port: %v", err)
	}
}

func TestFindSaysHowToInstall(t *testing.T) {
	t.Parallel()
	_, err := pgserver.Find(99)
	if !errors.Is(err, pgserver.ErrNotInstalled) || !strings.Contains(err.Error(), pgserver.InstallCommand()) {
		t.Errorf("Find(99) = %v", err)
	}
	if _, err := pgserver.At(t.TempDir()); !errors.Is(err, pgserver.ErrNotInstalled) {
		t.Errorf("At(empty) = %v", err)
	}
}

func TestFindForTakesTheBinariesOfTheData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want, err := pgserver.Find(0)
	if err != nil {
		t.Fatal(err)
	}
	if got, found := pgserver.FindFor(filepath.Join(dir, "none"), 0); found != nil || got != want {
		t.Errorf("without data: %v, %v", got, found)
	}
	write := func(text string) {
		t.Helper()
		if wrong := os.WriteFile(filepath.Join(dir, "PG_VERSION"), []byte(text), 0o600); wrong != nil {
			t.Fatal(wrong)
		}
	}
	write(want.Version[:2] + "\n")
	if got, found := pgserver.FindFor(dir, 0); found != nil || got.Major != want.Major {
		t.Errorf("own version: %v, %v", got, found)
	}
	write("9\n")
	if _, err = pgserver.FindFor(dir, 0); !errors.Is(err, pgserver.ErrWrongVersion) {
		t.Errorf("another version: %v", err)
	}
	write("?\n")
	if _, err = pgserver.FindFor(dir, 0); !errors.Is(err, pgserver.ErrNotEmpty) {
		t.Errorf("unreadable version: %v", err)
	}
}

func TestSQLState(t *testing.T) {
	t.Parallel()
	if got := pgserver.SQLState([]byte("SFATAL\x00C57P03\x00Mstarting up\x00\x00")); got != "57P03" {
		t.Errorf("got %q", got)
	}
	if got := pgserver.SQLState(nil); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestADSNSurvivesOddPaths(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/plain", "/with space", `/with'quote`, `/back\slash`, ""} {
		cfg, err := pgx.ParseConfig("user=a dbname=" + pgserver.QuoteDSN(path) + " host=/x")
		if err != nil || cfg.Database != path {
			t.Errorf("%q became %q, %v", path, cfg.Database, err)
		}
	}
}

func FuzzParsePass(f *testing.F) {
	f.Add("*:*:*:ada:secret")
	f.Add(`a\:b:c:d:e\\:f\`)
	f.Fuzz(func(t *testing.T, line string) {
		if _, pass, ok := pgserver.ParsePass(line); ok && (pass == "" || len(pass) > len(line)) {
			t.Errorf("%q gave %q", line, pass)
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add("4711\n/d\n1700000000\n5433\n/run\n*\n1 2\nready\n")
	f.Add("-1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if st, err := pgserver.ParseStatus(text); err == nil && st.PID == 0 {
			t.Errorf("%q gave process 0", text)
		}
	})
}
