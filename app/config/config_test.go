package config_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rootstream/app/apptest"
	"rootstream/app/config"
	"rootstream/errs"
)

// faultsOf returns what is wrong, a line a fault, the file's name cut to F.
func faultsOf(err error, file string) []string {
	var all []string
	for _, f := range errs.FieldsOf(err) {
		all = append(all, strings.ReplaceAll(f.Field+" "+f.Message, file, "F"))
	}
	return all
}

func TestAllFaultsOfAFileComeBackAtOnceWithTheirPlace(t *testing.T) {
	t.Parallel()
	file := apptest.File(t, "c.yaml", `http:
  timeout: soon
  lisen: 127.0.0.1:1
session:
  limit: -3
  limit_policy: sometimes
  user: {idle: 1s}
log:
  level: loud
redis:
  sentinel_addrs: one
trusted: true
mfa:
  strict: perhaps
  issuer: [a]
webhooks:
  - url: nowhere
    topics: ["["]
`)
	_, err := config.Load(config.Source{File: file})
	want := []string{
		"F:2:12: http.timeout must be a time such as 30s, 15m or 24h",
		"F:3:3: http.lisen is not a setting: see rootstream config explain",
		"F:5:10: session.limit must be a whole number that is not negative",
		"F:11:19: redis.sentinel_addrs must be a list",
		"F:12:1: trusted is not a setting: see rootstream config explain",
		"F:14:11: mfa.strict must be true or false",
		"F:15:11: mfa.issuer must be a single value",
		"F:6:17: session.limit_policy must be one of evict_oldest, deny",
		"F:9:10: log.level must be one of debug, info, warn, error",
		"session.user needs idle of at least 5m, and absolute no shorter than idle",
		"F:17:10: webhooks[0].url must be a URL",
		"F:18:14: webhooks[0].topics[0] must be a name or a pattern such as session.*",
		"webhooks[0].secrets needs at least one secret: echo whsec_$(openssl rand -base64 32)",
	}
	if diff := cmp.Diff(want, faultsOf(err, file)); diff != "" {
		t.Error(diff)
	}
	if errs.KindOf(err) != errs.Invalid {
		t.Errorf("kind %v", errs.KindOf(err))
	}
}

func TestYAMLThatIsNoConfigurationIsRefusedWithItsPlace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"a tab", "http:\n\tlisten: x\n", "F:2:1: "},
		{"a key twice", "http: {}\nhttp: {}\n", `F:2:1: mapping key "http" already defined`},
		{"an inner key twice", "http:\n  listen: a:1\n  listen: b:1\n", "F:3:3: "},
		{"a list", "- a\n", "F:1:1: must be a section"},
		{"two documents", "---\nlog: {}\n---\nlog: {}\n", "F holds more than one document"},
		{"an alias", "http:\n  listen: &a x:1\n  public_url: *a\n", "F:2:11: http.listen must be a single value"},
		{"a tag", "http:\n  listen: !!str x:1\n", "F:2:11: http.listen must be a single value"},
		{"a merge", "<<: {http: {}}\n", "F:1:1: << is not a setting"},
		{"an open bracket", "http: [", "F:1:"},
		{"not UTF-8", "http:\n  listen: \xff\n", "F:1:1: the file is not UTF-8"},
		{"many brackets", strings.Repeat("[", 100_000), "F:1:1: nested more than"},
		{"many brackets on many lines", strings.Repeat("[\n", 100_000), "F:33:1: nested more than"},
		{"many list marks", strings.Repeat("- ", 100_000) + "a", "F:1:1: nested more than"},
		{"deep indentation", strings.Repeat(" ", 500) + "a: 1\n", "F:1:1: nested more than"},
		{"too large", "#" + strings.Repeat("x", 1<<20), "F is too large: at most 1048576 bytes are read"},
		{"a path as a key", "http.listen: x:1\n", "F:1:1: http.listen is not a setting"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := apptest.File(t, "c.yaml", tt.text)
			_, err := config.Load(config.Source{File: file})
			if got := strings.Join(faultsOf(err, file), "\n"); !strings.HasPrefix(got, tt.want) {
				t.Errorf("faults %q, want one that begins with %q", got, tt.want)
			}
		})
	}
}

func TestOrdinaryYAMLIsUnderstood(t *testing.T) {
	t.Parallel()
	file := apptest.File(t, "c.yaml", "\ufeff# a comment\n\"http\":\n  'listen': \"127.0.0.1:9\"\n  trusted_proxies: [10.0.0.0/8, \"fd00::/8\"]\n"+
		"  timeout: 90s\nmail: ~\nmfa: {strict: true, issuer: 'It''s us'}\nservice_tokens:\n- name: edge\n  token: "+strings.Repeat("k", 32)+"\n")
	cfg, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.HTTP.Listen != "127.0.0.1:9" || len(cfg.HTTP.TrustedProxies) != 2 || cfg.HTTP.Timeout != 90*time.Second ||
		!cfg.MFA.Strict || cfg.MFA.Issuer != "It's us" || cfg.Mail.SMTPPort != 587 || cfg.ServiceTokens[0].Token.Reveal() != strings.Repeat("k", 32) {
		t.Errorf("read as %+v", cfg)
	}
	if _, err := config.Load(config.Source{File: apptest.File(t, "empty.yaml", "")}); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestStrongerSourcesWin(t *testing.T) {
	t.Parallel()
	base := apptest.File(t, "base.yaml", "http: {listen: 'base:1', public_url: 'http://base'}\nlog: {level: debug, format: json}\n")
	file := apptest.File(t, "c.yaml", "http: {listen: 'file:1', public_url: 'http://file'}\nlog: {level: warn}\n")
	env := []string{"ROOTSTREAM_HTTP_LISTEN=env:1", "ROOTSTREAM_HTTP_TRUSTED_PROXIES=10.0.0.0/8, 192.168.0.0/16", "ROOTSTREAM_DATA=/x", "PATH=/bin", "ROOTSTREAM_LOG_FORMAT="}
	cfg, err := config.Load(config.Source{Base: base, File: file, Env: env, Flags: map[string]string{"http.public_url": "http://flag"}})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.HTTP.Listen, cfg.HTTP.PublicURL, cfg.Log.Level, cfg.Log.Format, cfg.MFA.Issuer, strings.Join(cfg.HTTP.TrustedProxies, " ")}
	want := []string{"env:1", "http://flag", "warn", "json", "RootStream", "10.0.0.0/8 192.168.0.0/16"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment, flag, file, base, default: %s", diff)
	}
}

func TestFaultsNameTheVariableOrFlag(t *testing.T) {
	t.Parallel()
	_, err := config.Load(config.Source{
		Env: []string{
			"ROOTSTREAM_HTTP_TIMEOUT=x", "ROOTSTREAM_NO_SUCH=1", "ROOTSTREAM_LOG_LEVEL=loud", "ROOTSTREAM_HTTP_LISTEN_FILE=/x",
			"ROOTSTREAM_REDIS_URL_FILE=/does/not/exist", "ROOTSTREAM_POSTGRES_DSN=a", "ROOTSTREAM_POSTGRES_DSN_FILE=b",
		},
		Flags: map[string]string{"http.shutdown_grace": "y"},
	})
	got := strings.Join(faultsOf(err, "-"), "\n")
	for _, want := range []string{
		"ROOTSTREAM_HTTP_TIMEOUT must be a time", "ROOTSTREAM_NO_SUCH is not a setting", "ROOTSTREAM_LOG_LEVEL must be one of",
		"ROOTSTREAM_HTTP_LISTEN_FILE is not a setting", "ROOTSTREAM_REDIS_URL_FILE cannot be read",
		"ROOTSTREAM_POSTGRES_DSN_FILE and ROOTSTREAM_POSTGRES_DSN are both set", "the flag for http.shutdown_grace must be a time",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no fault %q in:\n%s", want, got)
		}
	}
}

func TestASecretComesFromAFile(t *testing.T) {
	t.Parallel()
	dsn := apptest.File(t, "dsn", "postgres://ada:s3cret@db/rs\n")
	cfg, err := config.Load(config.Source{Env: []string{"ROOTSTREAM_POSTGRES_DSN_FILE=" + dsn}})
	if err != nil || cfg.Postgres.DSN.Reveal() != "postgres://ada:s3cret@db/rs" {
		t.Errorf("read %q, %v", cfg.Postgres.DSN.Reveal(), err)
	}
	large := apptest.File(t, "large", strings.Repeat("x", 65<<10))
	if _, err := config.Load(config.Source{Env: []string{"ROOTSTREAM_POSTGRES_DSN_FILE=" + large}}); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("a file of 65 KiB: %v", err)
	}
}

func TestFilesAreNamedFromTheFolderOfTheConfiguration(t *testing.T) {
	t.Parallel()
	file := apptest.File(t, "c.yaml", "http: {tls_cert: tls/a.crt, tls_key: /abs/a.key}\nkeys: {master_key_file: master.key}\n")
	cfg, err := config.Load(config.Source{File: file})
	dir := filepath.Dir(file)
	if err != nil || cfg.HTTP.TLSCert != filepath.Join(dir, "tls/a.crt") || cfg.HTTP.TLSKey != "/abs/a.key" || cfg.Keys.MasterKeyFile != filepath.Join(dir, "master.key") {
		t.Errorf("%q %q %q, %v", cfg.HTTP.TLSCert, cfg.HTTP.TLSKey, cfg.Keys.MasterKeyFile, err)
	}
	cfg, err = config.Load(config.Source{Env: []string{"ROOTSTREAM_KEYS_MASTER_KEY_FILE=master.key"}})
	if err != nil || cfg.Keys.MasterKeyFile != "master.key" {
		t.Errorf("from the environment: %q, %v", cfg.Keys.MasterKeyFile, err)
	}
}

func TestShowRedactsSecretsAndCanBeReadBack(t *testing.T) {
	t.Parallel()
	const canary = "canary-canary-canary-canary-canary"
	file := apptest.File(t, "c.yaml", "postgres: {dsn: 'postgres://ada:"+canary+"@db/rs'}\nredis: {url: 'redis://:"+canary+"@r:1', sentinel_password: "+canary+
		"}\nmail: {smtp_password: "+canary+"}\nwebhooks: [{url: 'http://x/', secrets: ["+canary+"]}]\nservice_tokens: [{name: a, token: "+canary+"}]\nsession: {limit: 7}\n")
	cfg, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err = cfg.Show(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), canary) || strings.Count(out.String(), "[redacted]") != 6 {
		t.Errorf("shown as:\n%s", out.String())
	}
	shown := strings.ReplaceAll(out.String(), "[redacted]", canary)
	again, err := config.Load(config.Source{File: apptest.File(t, "again.yaml", shown)})
	if err != nil || again.Session.Limit != 7 || again.Session.Admin.Idle != 15*time.Minute {
		t.Errorf("read back: %v\n%s", err, shown)
	}
}

func TestEveryKeyIsExplained(t *testing.T) {
	t.Parallel()
	keys := config.Settings()
	if len(keys) < 40 {
		t.Fatalf("%d settings", len(keys))
	}
	for _, k := range keys {
		if k.Doc == "" || k.Type == "" || (k.Env == "" && !strings.Contains(k.Path, "[]")) {
			t.Errorf("%+v lacks something", k)
		}
	}
	found, err := config.FindSettings([]string{"session.user"})
	if err != nil || len(found) != 2 || found[0].Default != "24h" {
		t.Errorf("found %+v, %v", found, err)
	}
	if _, err := config.FindSettings([]string{"nothing"}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("an unknown setting: %v", err)
	}
	var out bytes.Buffer
	if err := config.ExplainMarkdown(&out); err != nil || !strings.Contains(out.String(), "`ROOTSTREAM_AUTH_RATE_LOGIN_ACCOUNT`") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		"", "http:\n  listen: 127.0.0.1:1\n", "http: {listen: x, timeout: 3s}", "- a", "a: [b, {c: d}]", "? x\n: y", "&a b: *a",
		"redis:\n  sentinel_addrs:\n  - a:1\n  - b:2\n", "webhooks: [{url: 'http://x', secrets: [abc]}]", "mail:\n  from: |\n    a\n    b\n",
		"session: {user: {absolute: 1h, idle: 10m}}", "---\na: 1\n---\nb: 2", "log: {level: \"\\u0000\"}", "\"http\":\n  'listen': \"\\\"\"",
	} {
		f.Add([]byte(seed))
	}
	file := apptest.File(f, "c.yaml", "")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(config.Source{File: file})
		if err != nil {
			for _, fault := range errs.FieldsOf(err) {
				if fault.Field == "" || fault.Message == "" {
					t.Errorf("a fault that says nothing: %+v", fault)
				}
			}
			return
		}
		var out bytes.Buffer
		if err := cfg.Show(&out); err != nil {
			t.Errorf("what was read cannot be shown: %v", err)
		}
	})
}

var fieldName = regexp.MustCompile(`: backup\.[^ ]+ `)

func TestFaultsOfBackupSettingsAreNamed(t *testing.T) {
	t.Parallel()
	file := apptest.File(t, "c.yaml", `backup:
  repo: ftp://here/there
  key_file: a
  passphrase_file: b
  compression: gzip
  compression_level: 9
  pgdata: "-"
  slot: Has-Capitals
  alert_mail: [nobody]
  alert_webhooks: ["https://example.org/hook"]
  retention: {minimum: 0}
  schedule:
    - {kind: full, cron: "60 3 * * *"}
    - {kind: weekly, cron: "0 3 * * *", zone: Europe/Berlin}
    - {kind: full, cron: "0 3 * * *", zone: Nowhere/Land}
`)
	_, err := config.Load(config.Source{File: file})
	faults := strings.Join(faultsOf(err, file), "\n")
	for _, want := range []string{
		"F:2:9: must be file:///absolute/folder or s3://bucket/prefix", "F:3:13: and backup.passphrase_file exclude each other",
		"F:5:16: must be one of zstd, s2, none", "F:6:22: must be between 1 and 4", "F:8:9: must be lower-case letters",
		"must be an e-mail address", "must be the url of an entry of webhooks",
		"F:11:24: must be between 1 and 10000", "F:14:14: must be one of [full", `F:13:26: "60 3 * * *" cannot be read`, `F:15:45: "Nowhere/Land" is not a time zone`,
	} {
		if !strings.Contains(fieldName.ReplaceAllString(faults, ": "), want) {
			t.Errorf("no %q in\n%s", want, faults)
		}
	}
}

func TestFaultsOfTypesOfState(t *testing.T) {
	t.Parallel()
	file := apptest.File(t, "c.yaml", `sync:
  watches: 0
  types:
    - {name: Note}
    - {name: user}
    - {name: note, class: solid, merge: somehow, write: nobody, max_bytes: 100000}
    - {name: note, class: volatile, merge: reject}
`)
	_, err := config.Load(config.Source{File: file})
	want := []string{
		"F:2:12: sync.watches must be between 1 and 1048576",
		"sync.types[0].name must be lower-case letters, digits and _, and begin with a letter",
		"sync.types[1].name is taken",
		"sync.types[2].class must be one of durable, volatile",
		"sync.types[2].merge must be one of reject, per_field, mine, theirs",
		"sync.types[2].write must be one of user, operator, admin",
		"sync.types[2].max_bytes must be at most 60000",
		"sync.types[3].name is taken",
		"sync.types[3].merge must be one of latest, per_field, max, sum",
	}
	have := faultsOf(err, file)
	for i := range have {
		if _, after, ok := strings.Cut(have[i], ": sync.types"); ok {
			have[i] = "sync.types" + after
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	if errs.KindOf(err) != errs.Invalid {
		t.Errorf("kind %v", errs.KindOf(err))
	}
}
