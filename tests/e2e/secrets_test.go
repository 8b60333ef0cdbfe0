package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rootstream/app/config"
	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/mfa"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// vault is a server whose every secret is known, and all that leaves it but for what was asked for.
type vault struct {
	*canaries
	pg      *postgrestest.Instance
	redis   *cachetest.Redis
	dir     string
	env     []string
	serve   *instance
	c       caller
	refused bytes.Buffer // the bodies and headers of all answers that are errors
	hooks   bytes.Buffer // what was sent to webhooks
	hooked  sync.Mutex
}

// TestSecretsNeverLeaveTheirPlace walks through everything that has a secret in it. A secret is allowed in exactly
// these places: the body and cookie of the answer that hands it out, the mail that carries a token (in the mail folder
// alone), the file or variable the operator has put it in, and the memory of the process. It must not be in: the log at
// level debug, error answers, /metrics, /openapi.json, webhooks, a dump of the database, the log of all its statements,
// Redis' keys, values and commands, arguments and environments of processes, output of commands, and a crash.
func TestSecretsNeverLeaveTheirPlace(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	stop := monitor(t, v.redis)
	v.serve = &instance{Program: harness.Start(t, "serve", []string{"serve", "--listen", "127.0.0.1:0", "--config", filepath.Join(v.dir, "rootstream.yaml")}, v.env)}
	v.serve.url = v.serve.Ready()
	v.c = newCaller(v.serve.url)
	v.signUp()
	v.secondFactor()
	v.streaming()
	v.badRequests()
	v.commands()
	v.absent("Redis", everything(v.redis), cache.SessionViewPrefix)
	v.absent("the commands of Redis", stop(), "EVALSHA", cache.SessionViewPrefix)
	v.faults()

	harness.Eventually(t, patience, "webhooks have arrived", func() error {
		v.hooked.Lock()
		defer v.hooked.Unlock()
		return want("events were sent", bytes.Contains(v.hooks.Bytes(), []byte("session.revoked")), true)
	})
	v.hooked.Lock()
	v.absent("webhooks", v.hooks.Bytes(), "session.created", "mfa.confirmed")
	v.hooked.Unlock()
	v.absent("error answers", v.refused.Bytes(), "invalid_credentials", "database_read_only", "not a field")
	v.absent("/metrics", v.c.must(t, 200, "GET", "/metrics", nil).raw, "rootstream_session_")
	v.absent("/openapi.json", v.c.must(t, 200, "GET", "/openapi.json", nil).raw, "/v1/auth/login")
	v.absent("the dump", v.dump(), "ada@example.org", "$argon2id$")
	v.absentFrom(v.serve.PID(), "serve")
	v.files(filepath.Join(filepath.Dir(v.pg.Dir()), "server.log"), "insert into sessions", "ada@example.org")
	v.serve.Signal(syscall.SIGQUIT)
	v.serve.Wait()
	v.absent("the log and the crash", []byte(v.serve.Log()), "level=WARN", "goroutine ")
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{canaries: &canaries{t: t}, dir: t.TempDir(), redis: cachetest.Server(t)}
	v.pg = postgrestest.Server(t, "log_statement=all", "log_parameter_max_length_on_error=-1")
	dsn, err := url.Parse(v.pg.DSN())
	if err != nil {
		t.Fatal(err)
	}
	databasePassword, _ := dsn.User.Password()
	v.plant("the password of the database", databasePassword)
	v.plant("the password of Redis", v.redis.Password())
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		v.hooked.Lock()
		defer v.hooked.Unlock()
		fmt.Fprintf(&v.hooks, "%v %s\n", r.Header, body)
	}))
	t.Cleanup(hook.Close)
	write := func(name, content string) string {
		path := filepath.Join(v.dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	v.env = []string{
		"ROOTSTREAM_POSTGRES_DSN_FILE=" + write("dsn", v.pg.DSN()), "ROOTSTREAM_REDIS_URL_FILE=" + write("redis", v.redis.URL()),
		"ROOTSTREAM_LOG_LEVEL=debug",
	}
	key := write("master.key", v.plant("the master key", "a master key "+rand.Text()+rand.Text()))
	write("rootstream.yaml", fmt.Sprintf("keys:\n  master_key_file: %s\nmail:\n  dir: %s\n  smtp_password: %s\n"+
		"service_tokens:\n  - name: gateway\n    token: %s\nwebhooks:\n  - url: %s\n    secrets: [%q]\n",
		key, filepath.Join(v.dir, "mail"), v.plant("the password for mail", rand.Text()),
		v.plant("a service token", rand.Text()+rand.Text()), hook.URL,
		v.plant("a webhook secret", "whsec_"+strings.Repeat("c2VjcmV0", 6))))
	return v
}

// do makes a request whose answer must have this status, and keeps it if it is an error.
func (v *vault) do(c caller, status int, method, path string, body any) answer {
	v.t.Helper()
	a := c.must(v.t, status, method, path, body)
	if !a.ok() {
		fmt.Fprintf(&v.refused, "%s\n%v\n%s\n", a.what, a.header, a.raw)
	}
	return a
}

func (v *vault) password(what string) string {
	return v.plant("the password "+what, "correct horse "+rand.Text())
}

// token signs in, or whatever else hands out a token.
func (v *vault) token(what string, c caller, path string, body any) caller {
	v.t.Helper()
	a := v.do(c, 200, "POST", path, body)
	return v.c.as(v.plant("the token of "+what, a.body.str("token")))
}

var mailed = regexp.MustCompile(`token=3D([A-Za-z0-9_-]+)|token=([A-Za-z0-9_-]+)`)

// mail is the token in the newest mail to ada that holds one and was not read yet.
func (v *vault) mail(what string) (token string) {
	v.t.Helper()
	harness.Eventually(v.t, patience, "a mail arrives", func() error {
		names, _ := filepath.Glob(filepath.Join(v.dir, "mail", "*.eml"))
		for _, name := range names {
			raw, _ := os.ReadFile(name)
			text := strings.ReplaceAll(string(raw), "=\r\n", "")
			if m := mailed.FindStringSubmatch(text); m != nil {
				token = m[1] + m[2]
				return os.Rename(name, name+".read")
			}
		}
		return fmt.Errorf("%d mails", len(names))
	})
	return v.plant("the mailed token to "+what, token)
}

func (v *vault) signUp() {
	v.t.Helper()
	first := v.password("at the beginning")
	v.do(v.c, 201, "POST", "/v1/users", object{"username": "ada", "email": "ada@example.org", "password": first})
	v.do(v.c, 204, "POST", "/v1/users/verify", object{"token": v.mail("verify")})
	v.do(v.c, 401, "POST", "/v1/auth/login", object{"login": "ada", "password": v.password("that is wrong")})
	v.do(v.c, 401, "POST", "/v1/auth/login", object{"login": "nobody", "password": v.password("of nobody")})
	v.do(v.c, 409, "POST", "/v1/users", object{"username": "ADA", "email": "b@example.org", "password": v.password("for a taken name")})
	v.do(v.c, 422, "POST", "/v1/users", object{"username": "b", "email": "no address", "password": v.password("of an invalid registration")})
	login := object{"login": "ada", "password": first}
	one := v.token("one", v.c, "/v1/auth/login", login)
	two := v.token("two", v.c, "/v1/auth/login", login)
	v.do(v.c, 200, "POST", "/v1/sessions/validate", object{"token": one.token})
	v.do(v.c, 200, "POST", "/v1/sessions/validate-batch", object{"tokens": []string{one.token, two.token}})
	v.do(one, 200, "GET", "/v1/auth/forward", nil)
	refreshed := v.token("one, refreshed", one, "/v1/auth/refresh", nil)
	v.do(two, 204, "POST", "/v1/auth/logout", nil)
	v.do(two, 401, "GET", "/v1/users/me", nil)
	second := v.password("changed to")
	a := v.do(refreshed, 200, "PUT", "/v1/users/me/password", object{"current_password": first, "new_password": second})
	v.plant("one, after the change", a.body.str("token"))
	v.do(v.c, 202, "POST", "/v1/auth/recovery", object{"login": "ada"})
	third := v.password("recovered to")
	v.do(v.c, 204, "POST", "/v1/auth/recovery/confirm", object{"token": v.mail("recover"), "password": third})
	v.c = v.token("three", v.c, "/v1/auth/login", object{"login": "ada", "password": third})
	v.c = v.token("three, proven", v.c, "/v1/auth/reauthenticate", object{"password": third})
	v.kept["the password in use"] = third
}

func (v *vault) secondFactor() {
	v.t.Helper()
	a := v.do(v.c, 201, "POST", "/v1/mfa/totp", object{})
	secret := v.plant("the secret of the factor", a.body.str("secret"))
	code, err := mfa.CodeAt(secret, time.Now())
	if err != nil {
		v.t.Fatal(err)
	}
	factor := "/v1/mfa/totp/" + a.body.str("factor_id")
	v.do(v.c, 200, "GET", "/v1/mfa", nil)
	codes := v.codes("old", v.do(v.c, 200, "POST", factor+"/confirm", object{"code": code}))
	login := v.do(v.c.as(""), 200, "POST", "/v1/auth/login", object{"login": "ada", "password": v.kept["the password in use"]})
	challenge := v.plant("a challenge", login.body.str("challenge_id"))
	v.do(v.c.as(""), 401, "POST", "/v1/auth/mfa/verify", object{"challenge_id": challenge, "method": "totp", "code": code})
	v.do(v.c.as(""), 401, "POST", "/v1/auth/mfa/verify", object{"challenge_id": challenge, "method": "backup_code", "code": v.plant("a wrong backup code", "aaaaa-bbbbb")})
	v.c = v.token("four", v.c.as(""), "/v1/auth/mfa/verify", object{"challenge_id": challenge, "method": "backup_code", "code": codes[0]})
	codes = v.codes("new", v.do(v.c, 200, "POST", "/v1/mfa/backup-codes", object{}))
	v.c = v.token("four, stepped up", v.c, "/v1/auth/reauthenticate", object{"method": "backup_code", "code": codes[0]})
	v.do(v.c, 200, "GET", "/v1/mfa/attempts", nil)
}

func (v *vault) codes(which string, a answer) (codes []string) {
	v.t.Helper()
	list, _ := a.body["backup_codes"].([]any)
	for i, c := range list {
		text, _ := c.(string)
		codes = append(codes, v.plant(fmt.Sprintf("backup code %d of the %s", i, which), text))
	}
	if len(codes) != 10 {
		v.t.Fatalf("%v, want ten codes", a)
	}
	return codes
}

func (v *vault) streaming() {
	v.t.Helper()
	a := v.do(v.c, 201, "POST", "/v1/streams", object{"name": "on air"})
	v.plant("the first stream key", a.body.str("stream_key"))
	path := "/v1/streams/" + a.body.str("id")
	v.plant("the second stream key", v.do(v.c, 200, "POST", path+"/key", nil).body.str("stream_key"))
	v.do(v.c, 200, "POST", path+"/start", object{"bitrate_kbps": 1})
	v.do(v.c, 201, "POST", path+"/viewers", nil)
	v.do(v.c, 200, "GET", path, nil)
	v.do(v.c, 200, "GET", "/v1/users/me/export", nil)
	v.do(v.c, 200, "GET", "/v1/users/me/audit", nil)
}

// badRequests have secrets where they do not belong.
func (v *vault) badRequests() {
	v.t.Helper()
	for _, r := range []struct{ method, path, body string }{
		{"POST", "/v1/auth/login", `{"login":"ada","password":"%s"`},
		{"POST", "/v1/auth/login", `{"login":"ada","password":"%s","remember":"%[1]s"}`},
		{"POST", "/v1/auth/login", `{"login":"ada","password":["%s"]}`},
		{"POST", "/v1/auth/login", `{"login":"ada","passwort":"%s"}`},
		{"POST", "/v1/auth/login", `{"login":"ada","password":"%s` + strings.Repeat("x", 2000) + `"}`},
		{"POST", "/v1/auth/login", `{"login":"ada` + "\x00" + `","password":"%s"}`},
		{"POST", "/v1/users", `{"username":"%s","email":"%[1]s","password":"%[1]s"}`},
		{"POST", "/v1/sessions/validate", `{"token":"%s","ip":"%[1]s"}`},
		{"POST", "/v1/sessions/validate", `{"tokens":"%s"}`},
		{"POST", "/v1/auth/mfa/verify", `{"challenge_id":"x","method":"%s","code":"%[1]s"}`},
		{"GET", "/v1/users/me?token=%s", ""},
		{"DELETE", "/v1/sessions/%s", ""},
		{"GET", "/v1/%s", ""},
	} {
		secret := v.plant(fmt.Sprintf("the misplaced secret of %s %.40s", r.method+" "+r.path, r.body), "misplaced"+rand.Text())
		path, body := r.path, r.body
		if strings.Contains(path, "%s") {
			path = fmt.Sprintf(path, secret)
		}
		if strings.Contains(body, "%") {
			body = fmt.Sprintf(body, secret)
		}
		req, err := http.NewRequestWithContext(context.Background(), r.method, v.serve.url+path, strings.NewReader(body))
		if err != nil {
			v.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+v.c.token)
		resp, err := v.c.http.Do(req)
		if err != nil {
			v.t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			v.t.Errorf("%s %s: %d %s, want it refused", r.method, r.path, resp.StatusCode, answer)
		}
		fmt.Fprintf(&v.refused, "%s\n%v\n%s\n", path[:min(len(path), 8)], resp.Header, answer)
	}
	v.do(v.c.as(v.plant("a token nobody issued", "sst_"+rand.Text()+rand.Text())), 401, "GET", "/v1/users/me", nil)
	v.do(v.c.as(v.plant("a token that is too long", strings.Repeat(rand.Text(), 40))), 401, "GET", "/v1/users/me", nil)
}

// others are the variables of env but for those that more sets in another way.
func others(env, more []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "_FILE=")
		return slices.ContainsFunc(more, func(one string) bool { return strings.HasPrefix(one, name+"=") })
	})
}

// commands print much, but no secret.
func (v *vault) commands() {
	v.t.Helper()
	flags := []string{"--config", filepath.Join(v.dir, "rootstream.yaml")}
	pass := v.password("of somebody made by a command")
	elsewhere := v.plant("the password of a database elsewhere", "elsewhere"+rand.Text())
	for _, c := range []struct {
		code  int
		stdin string
		env   []string
		args  []string
	}{
		{0, pass + "\n", nil, []string{"user", "add", "grace", "--email", "grace@example.org"}},
		{5, pass + "\n", nil, []string{"user", "add", "grace", "--email", "g@example.org"}},
		{2, "password\n", nil, []string{"user", "add", "short", "--email", "s@example.org"}},
		{0, "", nil, []string{"user", "list", "-o", "json"}},
		{0, "", nil, []string{"user", "show", "ada", "-o", "json"}},
		{0, "", nil, []string{"session", "list", "ada", "-o", "json"}},
		{0, "", nil, []string{"mfa", "status", "ada", "-o", "json"}},
		{0, "", nil, []string{"stream", "list", "-o", "json"}},
		{0, "", nil, []string{"config", "show"}},
		{0, "", nil, []string{"config", "show", "-o", "json"}},
		{0, "", nil, []string{"key", "status"}},
		{-1, "", nil, []string{"doctor"}},
		{-1, "", nil, []string{"status"}},
		{6, "", []string{"ROOTSTREAM_POSTGRES_DSN=postgres://u:" + elsewhere + "@127.0.0.1:1/x"}, []string{"user", "list"}},
		{2, "", []string{"ROOTSTREAM_POSTGRES_DSN=postgres://u:" + elsewhere + "@[::x/y"}, []string{"user", "list"}},
		{2, "", []string{"ROOTSTREAM_REDIS_URL=redis://u:" + elsewhere + "@[::x/y"}, []string{"serve"}},
	} {
		r := run(v.t, c.stdin, append(others(v.env, c.env), c.env...), append(c.args, flags...)...)
		if c.code >= 0 && r.code != c.code {
			v.t.Errorf("rootstream %v: exit %d, want %d\n%s%s", c.args, r.code, c.code, r.stdout, r.stderr)
		}
		v.absent(fmt.Sprintf("the output of rootstream %v", c.args), []byte(r.stdout+r.stderr))
	}
	// Even where a whole configuration is printed, by whatever way.
	dsn := config.Source{Env: []string{"ROOTSTREAM_POSTGRES_DSN=" + v.pg.DSN(), "ROOTSTREAM_REDIS_URL=" + v.redis.URL()}, File: flags[1]}
	cfg, err := config.Load(dsn)
	if err != nil {
		v.t.Fatal(err)
	}
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		v.t.Fatal(err)
	}
	v.absent("a configuration as JSON", asJSON)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		v.absent("a configuration printed by "+verb, fmt.Appendf(nil, verb, cfg))
	}
}

// faults make errors of the servers.
func (v *vault) faults() {
	v.t.Helper()
	v.redis.Kill()
	v.do(v.c, 200, "GET", "/v1/users/me", nil)
	v.redis.Restart()
	v.pg.ReadOnly(true)
	v.do(v.c, 503, "POST", "/v1/auth/login", object{"login": "ada", "password": v.kept["the password in use"]})
	v.do(v.c, 503, "POST", "/v1/users", object{"username": "hedy", "email": "hedy@example.org", "password": v.kept["the password in use"]})
	v.pg.ReadOnly(false)
	v.pg.Restart()
	harness.Eventually(v.t, patience, "the instance heals", func() error {
		a := v.c.do(v.t.Context(), "GET", "/v1/users/me", nil)
		return want(a.String()+": status", a.status, 200)
	})
}

// dump is the whole database as SQL.
func (v *vault) dump() []byte {
	v.t.Helper()
	return dumped(v.t, v.pg)
}
