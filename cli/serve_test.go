package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rootstream/cache/cachetest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// masterKey makes a key file that the program finds by its environment.
func masterKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(file, []byte(strings.Repeat("k", 40)), 0o600); err != nil {
		t.Fatal(err)
	}
	return "ROOTSTREAM_KEYS_MASTER_KEY_FILE=" + file
}

// signUp makes an account and signs in.
func signUp(t *testing.T, url, name string) (token string) {
	t.Helper()
	a := request(t, "POST", url+"/v1/users", "", map[string]string{"username": name, "email": name + "@example.org", "password": passwordText})
	if a.status != http.StatusCreated {
		t.Fatalf("signing up answers %d %v", a.status, a.body)
	}
	a = request(t, "POST", url+"/v1/auth/login", "", map[string]string{"login": name, "password": passwordText})
	token, _ = a.body["token"].(string)
	if a.status != http.StatusOK || token == "" {
		t.Fatalf("signing in answers %d %v", a.status, a.body)
	}
	return token
}

func mustValidate(t *testing.T, url, token string) {
	t.Helper()
	if a := request(t, "POST", url+"/v1/sessions/validate", "", map[string]string{"token": token}); a.status != http.StatusOK || a.body["valid"] != true {
		t.Errorf("validating answers %d %v", a.status, a.body)
	}
}

func TestServeWithoutRedisIsReadyAndSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := newProgram(t, nil).start([]string{masterKey(t)}, "serve", "--listen", "127.0.0.1:0", "--postgres", postgrestest.DSN(t),
		"--redis", fmt.Sprintf("redis://:x@127.0.0.1:%d/0", cachetest.FreePort(t)))
	if !strings.Contains(s.Stderr.String(), "redis does not answer") {
		t.Errorf("standard error does not say so:\n%s", s.Stderr)
	}
	if out := s.Stdout.String(); out != "rootstream is ready: "+s.URL+"\n" {
		t.Errorf("standard output is more than the ready line:\n%s", out)
	}
	a := request(t, "GET", s.URL+"/readyz", "", nil)
	if parts, _ := a.body["parts"].(map[string]any); a.status != http.StatusOK || a.body["status"] != "degraded" || parts["redis"] == "ok" {
		t.Errorf("/readyz answers %d %v", a.status, a.body)
	}
	mustValidate(t, s.URL, signUp(t, s.URL, "ada"))
	stop(t, s, syscall.SIGTERM)
}

func TestServeWithoutAMasterKeyLeavesOnlyWhatNeedsIt(t *testing.T) {
	t.Parallel()
	s := newProgram(t, nil).start(nil, "serve", "--listen", "127.0.0.1:0", "--postgres", postgrestest.DSN(t), "--redis", cachetest.Server(t).URL())
	token := signUp(t, s.URL, "ada")
	mustValidate(t, s.URL, token)
	a := request(t, "POST", s.URL+"/v1/mfa/totp", token, map[string]any{})
	if a.status != http.StatusServiceUnavailable || a.body["code"] != "keyset_missing" || a.header.Get("Retry-After") == "" {
		t.Errorf("enrolling answers %d %v, Retry-After %q", a.status, a.body, a.header.Get("Retry-After"))
	}
	if a := request(t, "GET", s.URL+"/v1/users/me", token, nil); a.status != http.StatusOK {
		t.Errorf("the account answers %d %v", a.status, a.body)
	}
	stop(t, s, syscall.SIGTERM)
}

func TestServeRefusesToBeReachedInTheClear(t *testing.T) {
	t.Parallel()
	p := newProgram(t, nil)
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:80"} {
		code, stdout, stderr := p.run("", "serve", "--listen", listen, "--postgres", postgrestest.DSN(t))
		if code != 2 || stdout != "" || !strings.Contains(stderr, "plain HTTP is served on loopback only") || !strings.Contains(stderr, "--tls-cert") {
			t.Errorf("on %s: %d %s%s", listen, code, stdout, stderr)
		}
	}
	if code, _, stderr := p.run("", "serve", "--listen", "nonsense", "--postgres", postgrestest.DSN(t)); code != 2 || !strings.Contains(stderr, "host:port") {
		t.Errorf("an address that is none: %d %s", code, stderr)
	}
}

func TestServeSpeaksTLSToEverybody(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t)
	s := newProgram(t, nil).start(nil, "serve", "--listen", "0.0.0.0:0", "--postgres", postgrestest.DSN(t), "--tls-cert", cert, "--tls-key", key)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	a, err := try(client, "GET", s.URL+"/readyz", "", nil)
	if err != nil || a.status != http.StatusOK || !strings.HasPrefix(s.URL, "https://") {
		t.Errorf("%s: %v %+v", s.URL, err, a)
	}
	client.CloseIdleConnections()
	stop(t, s, syscall.SIGTERM)
}

func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"rs.example.org"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestServeFinishesRequestsInFlightBeforeItStops(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.DSN(t)
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	s := newProgram(t, nil).start([]string{masterKey(t)}, "serve", "--listen", "127.0.0.1:0", "--postgres", dsn)

	// Whoever signs up waits for the lock of the name, which this test holds.
	holder, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Release()
	if _, err := holder.Exec(t.Context(), "select pg_advisory_lock(7206, hashtext('ada') & 255)"); err != nil {
		t.Fatal(err)
	}
	done := make(chan answer, 1)
	go func() {
		a, err := try(http.DefaultClient, "POST", s.URL+"/v1/users", "",
			map[string]string{"username": "ada", "email": "ada@example.org", "password": passwordText})
		if err != nil {
			a.body = map[string]any{"error": err.Error()}
		}
		done <- a
	}()
	waiting := func() bool {
		var n int
		err := db.QueryRow(t.Context(), "select count(*) from pg_locks where locktype = 'advisory' and classid = 7206 and not granted").Scan(&n)
		return err == nil && n > 0
	}
	if err := s.until("the request waits", waiting); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	closed := func() bool {
		_, err := try(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "GET", s.URL+"/healthz", "", nil)
		return err != nil
	}
	if err := s.until("it takes no more requests", closed); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), "select pg_advisory_unlock_all()"); err != nil {
		t.Fatal(err)
	}
	if a := <-done; a.status != http.StatusCreated {
		t.Errorf("the request that was in flight got %d %v; stderr:\n%s", a.status, a.body, s.Stderr)
	}
	<-s.done
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with %d; stderr:\n%s", code, s.Stderr)
	}
}

func TestAKilledServeLosesNothingItAcknowledged(t *testing.T) {
	t.Parallel()
	dsn, redis := postgrestest.DSN(t), cachetest.Server(t).URL()
	p, env := newProgram(t, nil), []string{masterKey(t)}
	args := []string{"serve", "--listen", "127.0.0.1:0", "--postgres", dsn, "--redis", redis}
	s := p.start(env, args...)
	token := signUp(t, s.URL, "ada")

	const writers, enough = 8, 60
	var mu sync.Mutex
	var acknowledged []string
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				a, err := try(http.DefaultClient, "POST", s.URL+"/v1/streams", token, map[string]string{"name": fmt.Sprintf("stream %d of %d", i, w)})
				if err != nil {
					return // killed
				}
				if id, _ := a.body["id"].(string); a.status == http.StatusCreated && id != "" {
					mu.Lock()
					acknowledged = append(acknowledged, id)
					mu.Unlock()
				}
			}
		})
	}
	many := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged) >= enough
	}
	err := s.until("enough writes", many)
	s.Kill()
	wg.Wait()
	if err != nil {
		t.Fatalf("%v: %d acknowledged", err, len(acknowledged))
	}
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	var kept, told int
	if err := db.QueryRow(t.Context(), `select count(*), (select count(distinct aggregate_id) from events where name = 'stream.created' and aggregate_id = any ($1::uuid[]))
		from streams where public_id = any ($1::uuid[])`, acknowledged).Scan(&kept, &told); err != nil {
		t.Fatal(err)
	}
	if kept != len(acknowledged) || told != len(acknowledged) {
		t.Errorf("%d writes were acknowledged, %d are kept, %d are in the log", len(acknowledged), kept, told)
	}
	again := p.start(env, args...)
	mustValidate(t, again.URL, token)
	stop(t, again, syscall.SIGTERM)
}
