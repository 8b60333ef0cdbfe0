package app_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/app"
	"rootstream/app/apptest"
	"rootstream/app/config"
	"rootstream/app/demo"
	"rootstream/errs"
	"rootstream/postgres/postgrestest"
)

// lines collects what a server writes.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// await waits until out holds text.
func (l *lines) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(l.String(), text); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in:\n%s", text, l)
		}
	}
}

// instance is a server in this process.
type instance struct {
	stdout, stderr lines
	end            context.CancelFunc
	done           chan error
}

func serve(t *testing.T, flags apptest.Settings) *instance {
	t.Helper()
	cfg, err := config.Load(config.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	return serveConfig(t, cfg)
}

func serveConfig(t *testing.T, cfg config.Config) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	i := &instance{end: cancel, done: make(chan error, 1)}
	go func() { i.done <- app.Serve(ctx, cfg, &i.stdout, &i.stderr) }()
	t.Cleanup(func() { i.stop(t) })
	return i
}

// stop ends the server as Ctrl-C does.
func (i *instance) stop(t *testing.T) {
	t.Helper()
	i.end()
	select {
	case err := <-i.done:
		if err != nil {
			t.Errorf("a wanted stop: %v", err)
		}
		i.done <- nil // for whoever stops it again
	case <-time.After(time.Minute):
		t.Error("it does not stop")
	}
}

func TestServeAnswersTheWholeDemo(t *testing.T) {
	t.Parallel()
	flags := apptest.System(t)
	flags["http.timeout"], flags["auth.hash_queue"] = "100s", "60s"
	i := serve(t, flags)
	i.stdout.await(t, "rootstream is ready: http://"+flags["http.listen"]+"\n")
	var steps []demo.Step
	cfg, err := config.Load(config.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	err = demo.Run(t.Context(), "http://"+flags["http.listen"]+"/", &cfg, func(s demo.Step) error {
		steps = append(steps, s)
		return nil
	})
	if err != nil || len(steps) < 29 {
		t.Fatalf("%d steps: %v", len(steps), err)
	}
	for _, s := range steps {
		if !s.OK || s.What == "" || s.Status == 0 || s.Took <= 0 || strings.Contains(s.Path, "?") {
			t.Errorf("step %+v", s)
		}
	}
	i.stop(t)
	if err := demo.Run(t.Context(), "http://"+flags["http.listen"], nil, func(demo.Step) error { return nil }); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("the demo of a server that is gone: %v", err)
	}
}

func TestTheDemoEndsAtTheFirstStepThatFails(t *testing.T) {
	t.Parallel()
	flags := apptest.System(t)
	delete(flags, "keys.master_key_file") // then nothing can be enrolled
	flags["http.timeout"], flags["auth.hash_queue"] = "100s", "60s"
	serve(t, flags).stdout.await(t, "rootstream is ready")
	var last demo.Step
	err := demo.Run(t.Context(), "http://"+flags["http.listen"], nil, func(s demo.Step) error {
		last = s
		return nil
	})
	if errs.CodeOf(err) != "demo_failed" || last.OK || !strings.Contains(err.Error(), "keyset_missing") {
		t.Errorf("ended at %+v with %v", last, err)
	}
}

func TestServeWaitsForPostgreSQL(t *testing.T) {
	t.Parallel()
	server := postgrestest.Server(t)
	server.Kill()
	i := serve(t, apptest.Settings{"postgres.dsn": server.DSN(), "http.listen": apptest.FreeAddress(t)})
	i.stderr.await(t, "waiting for PostgreSQL")
	if i.stdout.String() != "" {
		t.Errorf("ready before PostgreSQL: %s", &i.stdout)
	}
	server.Restart()
	i.stdout.await(t, "rootstream is ready")
}

func TestServeEndsWhileItWaitsForPostgreSQL(t *testing.T) {
	t.Parallel()
	i := serve(t, apptest.Settings{"postgres.dsn": "postgres://ada@" + apptest.FreeAddress(t) + "/rs", "http.listen": apptest.FreeAddress(t)})
	i.stderr.await(t, "waiting for PostgreSQL")
	i.stop(t)
}

func TestServeRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	newer := postgrestest.DSN(t)
	apptest.Exec(t, newer, "insert into goose_db_version (version_id, is_applied) values (9000, true)")
	other := apptest.System(t)
	for _, tt := range []struct {
		name, code string
		flags      apptest.Settings
	}{
		{"no database", "no_database", apptest.Settings{}},
		{"an address beyond this machine", "plain_http", apptest.Settings{"postgres.dsn": newer, "http.listen": "0.0.0.0:0"}},
		{"an address that is taken", "listen", apptest.Settings{"postgres.dsn": postgrestest.DSN(t), "http.listen": taken.Addr().String()}},
		{"a schema of a newer program", "schema_newer", apptest.Settings{"postgres.dsn": newer, "http.listen": apptest.FreeAddress(t)}},
		{"another master key", "wrong_master_key", apptest.With(other, apptest.Settings{"keys.master_key_file": apptest.File(t, "other.key", strings.Repeat("o", 40))})},
		{"a Redis address that is none", "invalid", apptest.With(other, apptest.Settings{"redis.url": "http://x"})},
		{"a file of places that is none", "internal", apptest.With(other, apptest.Settings{"session.geoip_file": apptest.File(t, "x.mmdb", "x")})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load(config.Source{Flags: tt.flags})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var out lines
			if err := app.Serve(ctx, cfg, &out, &out); errs.CodeOf(err) != tt.code {
				t.Errorf("%v (%s), want code %s", err, errs.CodeOf(err), tt.code)
			}
		})
	}
}
