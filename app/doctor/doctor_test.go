package doctor_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"rootstream/app/apptest"
	"rootstream/app/config"
	"rootstream/app/doctor"
	"rootstream/cache/cachetest"
	"rootstream/devstack"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// diagnosis is what the doctor found, by name.
type diagnosis map[string]doctor.Finding

func diagnose(t *testing.T, flags apptest.Settings) diagnosis {
	t.Helper()
	found := diagnosis{}
	for _, f := range doctor.Examine(t.Context(), doctor.Options{Source: config.Source{Flags: flags}}) {
		if f.Detail == "" || f.OK != (f.Remedy == "") {
			t.Errorf("a finding must say what it saw, and a failed one what to do: %+v", f)
		}
		found[f.Name] = f
	}
	return found
}

// failed returns the names of what is wrong.
func (d diagnosis) failed() string {
	var names []string
	for name, f := range d {
		if !f.OK {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// expect checks that name, and nothing else, is wrong, and that its finding says so.
func (d diagnosis) expect(t *testing.T, name, detail, remedy string) {
	t.Helper()
	f := d[name]
	if d.failed() != name {
		t.Errorf("wrong is %q, want %q: %+v", d.failed(), name, d)
	}
	if !strings.Contains(f.Detail, detail) || !strings.Contains(f.Remedy, remedy) {
		t.Errorf("%+v\nwant a detail with %q and a remedy with %q", f, detail, remedy)
	}
}

func TestDoctorFindsNothingWrongWithASystemThatWorks(t *testing.T) {
	t.Parallel()
	d := diagnose(t, apptest.System(t))
	if d.failed() != "" {
		t.Errorf("wrong is %s: %+v", d.failed(), d)
	}
	for _, name := range []string{
		"configuration", "postgresql", "postgresql_writes", "postgresql_connections", "schema", "master_key", "keyset",
		"redis", "redis_password", "redis_eviction", "redis_memory", "clocks", "tls_certificate", "api", "outbox",
	} {
		if _, ok := d[name]; !ok {
			t.Errorf("nothing was said about %s", name)
		}
	}
}

func TestDoctorFindsFaultsOfTheDatabase(t *testing.T) {
	t.Parallel()
	good := apptest.System(t)
	t.Run("it cannot be reached", func(t *testing.T) {
		t.Parallel()
		at := apptest.FreeAddress(t)
		found := diagnose(t, apptest.With(good, apptest.Settings{"postgres.dsn": "postgres://ada:s3cret@" + at + "/rs"}))
		found.expect(t, "postgresql", "cannot be reached", "start PostgreSQL at ada@127.0.0.1:")
		if said := found["postgresql"].Detail; strings.Count(said, "connection refused") != 1 {
			t.Errorf("with TLS and without, it says the same twice: %s", said)
		}
	})
	t.Run("the address is nonsense", func(t *testing.T) {
		t.Parallel()
		diagnose(t, apptest.With(good, apptest.Settings{"postgres.dsn": "postgres://ada:s3cret@:x/"})).expect(t, "postgresql", "cannot be read", "postgres.dsn")
	})
	t.Run("there is no such database", func(t *testing.T) {
		t.Parallel()
		diagnose(t, apptest.With(good, apptest.Settings{"postgres.dsn": good["postgres.dsn"] + "&database=no_such_database"})).
			expect(t, "postgresql", "no_such_database", "does not exist")
	})
	t.Run("it is read-only", func(t *testing.T) {
		t.Parallel()
		server := postgrestest.Server(t)
		flags := apptest.With(good, apptest.Settings{"postgres.dsn": server.DSN()})
		apptest.MakeKeyset(t, flags)
		server.ReadOnly(true)
		diagnose(t, flags).expect(t, "postgresql_writes", "default_transaction_read_only", "ALTER SYSTEM RESET")
	})
	t.Run("it is a standby", func(t *testing.T) {
		t.Parallel()
		server := postgrestest.Server(t, "wal_level=replica")
		flags := apptest.With(good, apptest.Settings{"postgres.dsn": server.DSN()})
		apptest.MakeKeyset(t, flags)
		server.Kill()
		if err := os.WriteFile(filepath.Join(server.Dir(), "standby.signal"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		server.Restart()
		diagnose(t, flags).expect(t, "postgresql_writes", "is a standby", "name the primary")
	})
	t.Run("the schema is missing", func(t *testing.T) {
		t.Parallel()
		diagnose(t, apptest.With(good, apptest.Settings{"postgres.dsn": postgrestest.Empty(t)})).
			expect(t, "schema", "not applied", "rootstream migrate up --rolling")
	})
	t.Run("the schema is newer than this program", func(t *testing.T) {
		t.Parallel()
		flags := apptest.With(good, apptest.Settings{"postgres.dsn": postgrestest.DSN(t)})
		apptest.Exec(t, flags["postgres.dsn"], "insert into goose_db_version (version_id, is_applied) values (9000, true)")
		diagnose(t, flags).expect(t, "schema", "newer version", "update this program")
	})
	t.Run("mail does not leave", func(t *testing.T) {
		t.Parallel()
		flags := apptest.With(good, apptest.Settings{"postgres.dsn": postgrestest.DSN(t)})
		apptest.Exec(t, flags["postgres.dsn"], "insert into outbox (channel, topic, created_at) values ('mail', 'user.verify', now() - interval '1 h')")
		diagnose(t, flags).expect(t, "outbox", "1 message waiting", "mail.smtp_host")
	})
	t.Run("its clock is wrong", func(t *testing.T) {
		t.Parallel()
		flags := apptest.With(good, apptest.Settings{"postgres.dsn": postgrestest.DSN(t)})
		apptest.Exec(t, flags["postgres.dsn"],
			"create function public.clock_timestamp() returns timestamptz language sql as 'select pg_catalog.clock_timestamp() - interval ''5 s'''",
			"do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database()); end $$")
		diagnose(t, flags).expect(t, "clocks", "PostgreSQL -", "timedatectl set-ntp true")
	})
}

func TestDoctorFindsFaultsOfKeys(t *testing.T) {
	t.Parallel()
	good := apptest.System(t)
	missing := filepath.Join(t.TempDir(), "master.key")
	fresh := apptest.With(good, apptest.Settings{"postgres.dsn": postgrestest.DSN(t)})
	exposed := apptest.File(t, "exposed.key", strings.Repeat("k", 40))
	if err := os.Chmod(exposed, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name           string
		system         apptest.Settings
		file           string
		detail, remedy string
	}{
		{"none is configured", good, "", "keyset_missing", "keys.master_key_file"},
		{"the file is missing and there is a keyset", good, missing, "no master key file", "put the master key file back"},
		{"the file is missing and there is none yet", fresh, missing, "no master key file", "openssl rand -hex 32 > " + missing},
		{"the file is short", fresh, apptest.File(t, "short.key", "short"), "shorter than 32 bytes", "openssl rand"},
		{"others can read the file", good, exposed, "read by others", "chmod 600 " + exposed},
		{"it is another key", good, apptest.File(t, "other.key", strings.Repeat("o", 40)), "does not open the keyset", "first started with"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			flags := apptest.With(tt.system, apptest.Settings{"keys.master_key_file": tt.file})
			if tt.file == "" {
				delete(flags, "keys.master_key_file")
			}
			diagnose(t, flags).expect(t, "master_key", tt.detail, tt.remedy)
		})
	}
	// Whether there is a keyset that a new key would not open is not known.
	unknown := diagnose(t, apptest.With(good, apptest.Settings{"keys.master_key_file": missing, "postgres.dsn": "postgres://ada@" + apptest.FreeAddress(t) + "/rs"}))
	if f := unknown["master_key"]; !strings.Contains(f.Remedy, "if this database was ever started") {
		t.Errorf("%+v", f)
	}
}

func TestDoctorNoticesALostKeyset(t *testing.T) {
	t.Parallel()
	flags := apptest.System(t)
	apptest.Exec(t, flags["postgres.dsn"],
		"insert into users (username, email, password_hash) values ('ada', 'ada@example.org', '')",
		"insert into user_mfa (user_id, method, secret, created_at) select id, 'totp', 'sealed', now() - interval '1 day' from users",
		"delete from keysets")
	diagnose(t, flags).expect(t, "keyset", "sealed with it: 1 second factor", "rootstream mfa reset")
	apptest.MakeKeyset(t, flags) // a server that was started before anybody noticed
	diagnose(t, flags).expect(t, "keyset", "the one that sealed them is gone", "restore the table keysets")
}

func TestDoctorChangesNothing(t *testing.T) {
	t.Parallel()
	flags := apptest.Settings{
		"postgres.dsn": postgrestest.DSN(t), "redis.url": cachetest.Server(t).URL(),
		"keys.master_key_file": apptest.File(t, "master.key", strings.Repeat("k", 40)), "http.listen": apptest.FreeAddress(t),
	}
	if d := diagnose(t, flags); d.failed() != "" || !strings.Contains(d["keyset"].Detail, "none yet") {
		t.Errorf("a database before its first server: %+v", d)
	}
	db := postgrestest.Open(t, postgres.Config{DSN: flags["postgres.dsn"]})
	if facts, err := postgres.InspectContent(t.Context(), db); err != nil || len(facts.Keysets) != 0 {
		t.Errorf("the doctor made a keyset: %v, %v", facts.Keysets, err)
	}
}

func TestDoctorFindsFaultsOfRedis(t *testing.T) {
	t.Parallel()
	good := apptest.System(t)
	for _, tt := range []struct {
		name, finding, detail, remedy string
		url                           func() string
	}{
		{"it is down", "redis", "not available", "redis.url", func() string { return "redis://:x@" + apptest.FreeAddress(t) + "/0" }},
		{"the password is wrong", "redis", "WRONGPASS", "requirepass", func() string {
			return regexp.MustCompile(`:[^:@]*@`).ReplaceAllString(cachetest.Server(t).URL(), ":wrong@")
		}},
		{"it wants no password", "redis_password", "without a password", "requirepass", func() string {
			return cachetest.Server(t, cachetest.NoPassword).URL()
		}},
		{"it evicts", "redis_eviction", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction", func() string {
			return cachetest.Server(t, "maxmemory-policy allkeys-lru").URL()
		}},
		{"it is full", "redis_memory", "will soon be refused", "maxmemory", func() string {
			s := cachetest.Server(t)
			s.Do("CONFIG", "SET", "maxmemory", "1000000")
			return s.URL()
		}},
		{"it is a replica", "redis", "is a replica", "redis.sentinel_master", func() string {
			s, host, port := cachetest.Server(t), "127.0.0.1", fmt.Sprint(cachetest.FreePort(t))
			s.Do("REPLICAOF", host, port)
			return s.URL()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			diagnose(t, apptest.With(good, apptest.Settings{"redis.url": tt.url()})).expect(t, tt.finding, tt.detail, tt.remedy)
		})
	}
	none := maps.Clone(good)
	delete(none, "redis.url")
	if d := diagnose(t, none); d.failed() != "" || !strings.Contains(d["redis"].Detail, "none is configured") {
		t.Errorf("without Redis: %+v", d)
	}
}

// certificate writes a self-signed certificate for rs.example.org and its key.
func certificate(t *testing.T, from, until time.Time) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"rs.example.org"}, NotBefore: from, NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return apptest.File(t, "a.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		apptest.File(t, "a.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
}

func TestDoctorFindsFaultsOfTheCertificate(t *testing.T) {
	t.Parallel()
	good := apptest.System(t)
	const day = 24 * time.Hour
	now := time.Now()
	cert, key := certificate(t, now.Add(-day), now.Add(90*day))
	_, otherKey := certificate(t, now.Add(-day), now.Add(90*day))
	expired, expiredKey := certificate(t, now.Add(-9*day), now.Add(-day))
	soon, soonKey := certificate(t, now.Add(-9*day), now.Add(3*day))
	future, futureKey := certificate(t, now.Add(day), now.Add(90*day))
	for _, tt := range []struct{ name, cert, key, url, detail, remedy string }{
		{"it is fine", cert, key, "https://rs.example.org", "", ""},
		{"it expired", expired, expiredKey, "", "expired at", "renew"},
		{"it expires soon", soon, soonKey, "", "expires in 2 days", "renew"},
		{"it is not valid yet", future, futureKey, "", "not valid before", "clock"},
		{"the key is another's", cert, otherKey, "", "does not belong to", "one certificate"},
		{"it is missing", "/no/such.crt", key, "", "no such file", "http.tls_cert"},
		{"it is no certificate", key, key, "", "tls:", "PEM"},
		{"it is for another name", cert, key, "https://other.example.org", "is not for other.example.org", "http.public_url"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			flags := apptest.With(good, apptest.Settings{"http.tls_cert": tt.cert, "http.tls_key": tt.key})
			d := diagnose(t, flags)
			if tt.url != "" { // nothing answers under that name, which is not the question here
				flags["http.public_url"] = tt.url
				d = diagnose(t, flags)
				delete(d, "api")
			}
			if tt.detail == "" {
				if d.failed() != "" {
					t.Errorf("wrong is %s: %+v", d.failed(), d)
				}
				return
			}
			d.expect(t, "tls_certificate", tt.detail, tt.remedy)
		})
	}
	diagnose(t, apptest.With(good, apptest.Settings{"http.listen": "0.0.0.0:8443"})).expect(t, "listen_address", "loopback only", "--tls-cert")
}

func TestDoctorFindsFaultsOfTheAPI(t *testing.T) {
	t.Parallel()
	good := apptest.System(t)
	answer := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	diagnose(t, apptest.With(good, apptest.Settings{"http.public_url": answer(200, `{"status":"degraded","parts":{"redis":"it is gone","postgresql":"ok"}}`)})).
		expect(t, "api", "degraded: redis: it is gone", "recovers by itself")
	diagnose(t, apptest.With(good, apptest.Settings{"http.public_url": answer(404, "nothing here")})).expect(t, "api", "is not RootStream", "http.public_url")
	if d := diagnose(t, apptest.With(good, apptest.Settings{"http.public_url": answer(200, `{"status":"ready","parts":{}}`)})); d.failed() != "" {
		t.Errorf("a server that is ready: %+v", d)
	}
}

func TestDoctorTellsANewcomerHowToBegin(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "nothing")
	found := diagnosis{}
	for _, f := range doctor.Examine(t.Context(), doctor.Options{Source: config.Source{Flags: apptest.Settings{"http.listen": apptest.FreeAddress(t)}}, DataDir: dir}) {
		found[f.Name] = f
	}
	found.expect(t, "stack", "no stack was ever started in "+dir, "rootstream up --data "+dir)
	for _, name := range []string{"postgres_binaries", "redis_binary", "data_folder", "data_folder_lock", "http_port", "disk_space"} {
		if _, ok := found[name]; !ok {
			t.Errorf("nothing was said about %s", name)
		}
	}
}

func TestDoctorMakesEachFaultOfTheConfigurationAFinding(t *testing.T) {
	t.Parallel()
	file := apptest.File(t, "c.yaml", "htp: 1\nlog: {level: loud}\n")
	o := doctor.Options{Source: config.Source{File: file, Flags: apptest.Settings{"postgres.dsn": postgrestest.DSN(t)}}}
	var faults []string
	for _, f := range doctor.Examine(t.Context(), o) {
		if f.Name == "configuration" {
			faults = append(faults, strings.TrimPrefix(f.Detail, file))
		}
	}
	if len(faults) != 2 || !strings.HasPrefix(faults[0], ":1:1: htp") || !strings.HasPrefix(faults[1], ":2:14: log.level") {
		t.Errorf("faults %q", faults)
	}
}

func TestStatusSaysHowEveryPartIs(t *testing.T) {
	t.Parallel()
	flags := apptest.System(t)
	parts := statusOf(t, flags)
	want := map[string]string{"postgresql": "up", "redis": "up", "api": "off", "keyset": "up", "schema": "up", "sessions": "up", "outbox": "up"}
	for name, state := range want {
		if parts[name].State != state || parts[name].Detail == "" {
			t.Errorf("%s: %+v, want %s", name, parts[name], state)
		}
	}
	if facts := parts["postgresql"].Facts; facts["role"] != "primary" || facts["connections"].(int) < 1 {
		t.Errorf("facts %v", facts)
	}
	flags["postgres.dsn"] = "postgres://ada@" + apptest.FreeAddress(t) + "/rs"
	delete(flags, "redis.url")
	parts = statusOf(t, flags)
	want = map[string]string{"postgresql": "down", "redis": "off", "api": "off", "keyset": "down", "schema": "down", "sessions": "down", "outbox": "down"}
	for name, state := range want {
		if parts[name].State != state || parts[name].Down() != (state == "down") {
			t.Errorf("with PostgreSQL away, %s: %+v, want %s", name, parts[name], state)
		}
	}
	if _, err := doctor.Status(t.Context(), config.Target{}); err == nil {
		t.Error("without a database there is nothing to ask")
	}
}

func statusOf(t *testing.T, flags apptest.Settings) map[string]doctor.PartStatus {
	t.Helper()
	target, err := config.Find(config.Source{Flags: flags}, "")
	if err != nil {
		t.Fatal(err)
	}
	list, err := doctor.Status(context.WithoutCancel(t.Context()), target)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]doctor.PartStatus{}
	for _, p := range list {
		parts[p.Name] = p
	}
	return parts
}

func TestDoctorFindsFaultsOfTheMachine(t *testing.T) {
	t.Parallel()
	// A folder made by a PostgreSQL that is not installed, locked by a process that is no stack, and a port that is taken.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "postgres"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "postgres", "PG_VERSION"), []byte("12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := devstack.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	found := diagnosis{}
	listen := taken.Listener.Addr().String()
	for _, f := range doctor.Examine(t.Context(), doctor.Options{Source: config.Source{Flags: apptest.Settings{"http.listen": listen}}, DataDir: dir}) {
		found[f.Name] = f
	}
	for name, want := range map[string]string{
		"postgres_binaries": "install PostgreSQL 12", "data_folder_lock": "stop that process", "http_port": "another address with --listen",
		"stack": "rootstream up --data " + dir,
	} {
		if f := found[name]; f.OK || !strings.Contains(f.Remedy, want) {
			t.Errorf("%s: %+v, want a remedy with %q", name, f, want)
		}
	}
}

func TestSentinelAndClusterAreReachedByConfiguration(t *testing.T) {
	t.Parallel()
	good := apptest.System(t)
	set, nodes := cachetest.Sentinel(t), cachetest.Cluster(t)
	sentinels, cluster := set.Config(), nodes.Config()
	for name, more := range map[string]apptest.Settings{
		"sentinel": {
			"redis.sentinel_master": sentinels.Sentinel.Master, "redis.sentinel_addrs": strings.Join(sentinels.Sentinel.Addrs, ","),
			"redis.sentinel_password": sentinels.Sentinel.Password, "redis.url": "redis://:" + sentinels.Password + "@ignored:1",
		},
		"cluster": {"redis.cluster_addrs": strings.Join(cluster.Addrs, ","), "redis.url": "redis://:" + cluster.Password + "@ignored:1"},
	} {
		flags := apptest.With(good, more)
		if d := diagnose(t, flags); !d["redis"].OK || !strings.Contains(d["redis"].Detail, name) {
			t.Errorf("%s: %+v", name, d["redis"])
		}
	}
}
