package session_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/session"
)

// million makes distinct tokens.
func million(n int) []string {
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = session.Format(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))))
	}
	return tokens
}

func sampleView() session.View {
	far := time.Now().Add(24 * time.Hour).UnixMicro()
	return session.View{
		SessionID: uuid.New(), UserID: uuid.New(), DBSessionID: 1, DBUserID: 1, Version: 1, AAL: 1,
		ExpiresAt: far, CreatedAt: time.Now().UnixMicro(), LastActivity: time.Now().UnixMicro(),
	}
}

// Floor: a million a second and core, over a million tokens, with revocations going on, without allocating.
func BenchmarkValidateNear(b *testing.B) {
	const n = 1 << 20
	w := newWorld(b, false)
	m := w.instance(func(c *session.Config) { c.NearCapacity = 2 * n })
	tokens, spare := million(n), million(n + 1000)[n:]
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := sampleView()
	for _, token := range tokens {
		m.Keep(token, v)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for _, parallel := range []bool{false, true} {
		b.Run(fmt.Sprintf("parallel=%t", parallel), func(b *testing.B) {
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { // a thousand revocations a second
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case <-tick.C:
						for j := range 10 {
							m.Forget(spare[(i*10+j)%len(spare)])
						}
					}
				}
			})
			ctx := context.Background()
			b.ReportAllocs()
			cpu := cpuTime()
			b.ResetTimer()
			if parallel {
				var start atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					i := int(start.Add(99991))
					for pb.Next() {
						i = (i + 7919) & (n - 1)
						if _, err := m.Validate(ctx, tokens[i], session.ClientHint{}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			} else {
				for i := range b.N {
					if _, err := m.Validate(ctx, tokens[(i*7919)&(n-1)], session.ClientHint{}); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/(cpuTime()-cpu).Seconds(), "validations/core-s")
			close(stop)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "validations/s")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
		})
	}
	b.Run("batch of 1000", func(b *testing.B) {
		ctx := context.Background()
		for i := range b.N {
			from := i * 1000 % (n - 1000)
			if _, err := m.ValidateBatch(ctx, tokens[from:from+1000]); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds(), "validations/s")
	})
}

// cpuTime is what this process has used of all cores, which others on the machine change less than the clock on the wall.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A hit in the process allocates nothing, with or without a device to compare.
func TestAHitInTheProcessAllocatesNothing(t *testing.T) {
	w := newWorld(t, false)
	m := w.instance()
	id, _ := w.user()
	token, _ := w.loginAs(m, session.New{UserID: id, Device: session.Device{ID: "d", UserAgent: chromeWindows}})
	ctx := context.Background()
	for _, hint := range []session.ClientHint{{}, {DeviceID: "d", UserAgent: chromeWindows}} {
		n := testing.AllocsPerRun(1000, func() {
			if _, err := m.Validate(ctx, token, hint); err != nil {
				t.Error(err)
			}
		})
		if n >= 1 {
			t.Errorf("%v allocations", n)
		}
	}
}

const benchClients = 64

// drive calls f from many goroutines and returns calls a second.
func drive(b *testing.B, f func(i int) error) {
	b.Helper()
	b.SetParallelism(benchClients / runtime.GOMAXPROCS(0))
	var next atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f(int(next.Add(1))); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

// Floor: 0.7 of the same client's bare GETs of the same keys.
func BenchmarkValidateRedis(b *testing.B) {
	const n = 200_000
	w := newWorld(b, true)
	m := w.instance(func(c *session.Config) { c.NearCapacity = 1 })
	client := w.redis.Client(b, redisConfig())
	tokens := million(n)
	v := sampleView()
	fill := func() {
		for from := 0; from < n; from += 1000 {
			m.StoreAll(tokens[from:from+1000], v)
		}
	}
	ctx := context.Background()
	b.Run("bare GET", func(b *testing.B) {
		fill()
		drive(b, func(i int) error {
			_, _, err := client.GetBytes(ctx, viewKey(tokens[i*7919%n]))
			return err
		})
	})
	b.Run("Validate", func(b *testing.B) {
		w.redis.FlushAll()
		fill()
		loads := m.DBLoads()
		drive(b, func(i int) error {
			_, err := m.Validate(ctx, tokens[i*7919%n], session.ClientHint{})
			return err
		})
		b.ReportMetric(float64(m.DBLoads()-loads), "loads")
	})
}

// fillSessions makes n live sessions of n/5 accounts, with the tokens given.
func (w *world) fillSessions(tokens []string) {
	w.t.Helper()
	w.exec(`insert into users (username, email, password_hash)
		select 'bench' || n, 'bench' || n || '@example.org', 'x' from generate_series(1, $1) n`, len(tokens)/5)
	hashes := make([][]byte, len(tokens))
	for i, token := range tokens {
		hashes[i] = sum(token)
	}
	for from := 0; from < len(hashes); from += 10_000 {
		w.exec(`insert into sessions (user_id, session_token, token_hash, class, expires_at)
			select u.id, 'h1:' || encode(h, 'hex'), h, 'user', now() + interval '1 day'
			from unnest($1::bytea[]) with ordinality x(h, n) join users u on u.username = 'bench' || ((n + $2) % $3 + 1)`,
			hashes[from:min(from+10_000, len(hashes))], from, len(tokens)/5)
	}
	w.exec(`analyze sessions`)
	w.exec(`analyze users`)
}

// pgbench runs a script by itself and returns transactions a second.
func (w *world) pgbench(b *testing.B, script string) float64 {
	b.Helper()
	bin, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(bin) == 0 {
		b.Fatal("pgbench is needed: apt-get install postgresql-contrib")
	}
	file := filepath.Join(b.TempDir(), "script.sql")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		b.Fatal(err)
	}
	u, err := url.Parse(w.dsn)
	if err != nil {
		b.Fatal(err)
	}
	password, _ := u.User.Password()
	cmd := exec.Command(bin[len(bin)-1], "-n", "-M", "prepared", "-c", "20", "-j", "2", "-T", "5", "-f", file)
	cmd.Env = append(os.Environ(), "PGHOST="+u.Hostname(), "PGPORT="+u.Port(), "PGUSER="+u.User.Username(),
		"PGPASSWORD="+password, "PGDATABASE="+strings.TrimPrefix(u.Path, "/"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	m := regexp.MustCompile(`tps = ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		b.Fatalf("pgbench said\n%s", out)
	}
	tps, _ := strconv.ParseFloat(string(m[1]), 64)
	return tps
}

// Floor: 0.7 of pgbench with the same statement.
func BenchmarkValidatePostgreSQL(b *testing.B) {
	const n = 100_000
	w := newWorld(b, false)
	m := w.instance()
	tokens := million(n)
	w.fillSessions(tokens)
	w.exec(`create table bench_tokens as select row_number() over () as n, token_hash from sessions`)
	w.exec(`create unique index on bench_tokens (n)`)
	ctx := context.Background()
	var ours float64
	b.Run("Validate", func(b *testing.B) {
		drive(b, func(i int) error {
			_, err := m.Validate(ctx, tokens[i*7919%n], session.ClientHint{Strong: true})
			return err
		})
		ours = float64(b.N) / b.Elapsed().Seconds()
	})
	statement := strings.ReplaceAll(strings.ReplaceAll(session.LoadSQL, "$1",
		`sha256(:n::text::bytea)`), "\n", " ")
	tps := w.pgbench(b, "\\set n random(1, 100000)\n"+statement+";\n")
	fmt.Fprintf(os.Stderr, "%s: pgbench %.0f/s, ours %.0f/s, ratio %.2f\n", b.Name(), tps, ours, ours/tps)
}

// Floor: 0.7 of pgbench with the same statements.
func BenchmarkCreate(b *testing.B) {
	const users = 20_000
	w := newWorld(b, true)
	m := w.instance()
	w.exec(`insert into users (username, email, password_hash)
		select 'bench' || n, 'bench' || n || '@example.org', 'x' from generate_series(1, $1) n`, users)
	first := int64(w.int(`select min(id) from users`))
	var ours float64
	b.Run("Create", func(b *testing.B) {
		drive(b, func(i int) error {
			_, err := create(w.db, m, session.New{UserID: first + int64(i*7919%users), AMR: []string{"pwd"}, Device: session.Device{UserAgent: chromeWindows}})
			return err
		})
		ours = float64(b.N) / b.Elapsed().Seconds()
	})
	one := func(s string, args ...string) string {
		s = strings.ReplaceAll(s, "\n", " ")
		for i := len(args); i > 0; i-- {
			s = strings.ReplaceAll(s, "$"+strconv.Itoa(i), args[i-1])
		}
		return s + ";\n"
	}
	hash := `sha256((:r || '-' || :q)::bytea)`
	id := `(md5(:r || '-' || :q)::uuid)`
	script := fmt.Sprintf("\\set u random(%d, %d)\n\\set r random(1, 1000000000000)\n\\set q random(1, 1000000000000)\n\\set s random(0, 15)\nbegin;\n",
		first, first+users-1) +
		one(session.LockSQL, ":u") + one(session.EvictSQL, ":u", "9") +
		one(session.InsertSQL, ":u", hash, id, "'user'", "1", "'{pwd}'", "0", "false", "''", "''", "'chrome/windows/desktop'",
			"'"+strings.ReplaceAll(chromeWindows, ";", ",")+"'", "null", "''", "86400", "0") +
		"select pg_advisory_xact_lock(7205, :s);\n" +
		"select coalesce((select max(seq) from events where shard = :s), 0) as seq \\gset\n" +
		"select coalesce((select max(version) from events where aggregate_type = 'session' and aggregate_id = " + id + "), 0);\n" +
		"insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data) values (:s, :seq + 1, 'session', " + id +
		", 1, 'session.created', '{\"session_id\": \"x\", \"user_id\": \"y\"}');\ncommit;\n"
	tps := w.pgbench(b, script)
	fmt.Fprintf(os.Stderr, "%s: pgbench %.0f/s, ours %.0f/s, ratio %.2f\n", b.Name(), tps, ours, ours/tps)
}
