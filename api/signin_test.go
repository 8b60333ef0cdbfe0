package api_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rootstream/auth"
	"rootstream/session"
)

var (
	sessionKeys = []string{
		"id", "user_id", "class", "aal", "amr", "remembered", "active", "device",
		"created_at", "authenticated_at", "last_activity", "expires_at",
	}
	grantKeys = append([]string{"role", "verified"}, sessionKeys...)
)

func with(keys []string, more ...string) []string {
	return append(append([]string{}, keys...), more...)
}

func TestSigningIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	in := w.do("POST", "/v1/auth/login", object{"login": "ADA@example.org", "password": password, "device_name": "laptop", "remember": true},
		withHeader("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")).want(200)
	in.keys("", "token", "session").keys("session", with(grantKeys, "idle_expires_at")...).keys("session.device", "id", "name", "fingerprint", "user_agent", "ip")
	if in.at("session.verified") != false || in.at("session.aal") != float64(1) || in.at("session.remembered") != true || in.at("session.device.name") != "laptop" {
		t.Errorf("the session: %s", in.body)
	}
	if in.header.Get("Cache-Control") != "no-store" {
		t.Error("a token may be cached")
	}
	wrong := w.do("POST", "/v1/auth/login", object{"login": "ada", "password": "wrong password of this"}).problem(401, "invalid_credentials")
	nobody := w.do("POST", "/v1/auth/login", object{"login": "nobody", "password": password}).problem(401, "invalid_credentials")
	sameProblem(t, wrong, nobody)

	refreshed := w.do("POST", "/v1/auth/refresh", nil, as(in.text("token"))).want(200).keys("", "token", "session").keys("session", with(grantKeys, "idle_expires_at")...)
	if refreshed.at("session.id") != in.at("session.id") || refreshed.at("token") == in.at("token") {
		t.Errorf("after a refresh: %s", refreshed.body)
	}
	again := w.do("POST", "/v1/auth/refresh", nil, as(in.text("token"))).want(200)
	if again.at("token") != refreshed.at("token") {
		t.Error("a repeated refresh gives another token")
	}
	w.do("POST", "/v1/auth/refresh", nil).problem(401, "unauthenticated")
	proven := w.do("POST", "/v1/auth/reauthenticate", object{"password": password}, as(refreshed.text("token"))).want(200).keys("", "token", "session")
	w.do("GET", "/v1/users/me", nil, as(refreshed.text("token"))).problem(401, "unauthenticated")
	w.do("POST", "/v1/auth/reauthenticate", object{"password": "wrong password of this"}, as(proven.text("token"))).problem(401, "invalid_credentials")
	w.do("POST", "/v1/auth/reauthenticate", object{}, as(proven.text("token"))).problem(422, "invalid").names("password")

	out := w.do("POST", "/v1/auth/logout", nil, as(proven.text("token"))).want(204)
	if c := out.cookie("rootstream"); c.MaxAge >= 0 || c.Value != "" || c.Path != "/" {
		t.Errorf("the cookie stays: %v", c)
	}
	w.do("GET", "/v1/users/me", nil, as(proven.text("token"))).problem(401, "unauthenticated")
}

// sameProblem compares two problems in all but their request ids.
func sameProblem(t *testing.T, a, b answer) {
	t.Helper()
	pa, pb := a.json(), b.json()
	delete(pa, "request_id")
	delete(pb, "request_id")
	if diff := cmp.Diff(pa, pb); diff != "" || a.status != b.status {
		t.Errorf("%s and %s differ:\n%s", a.what, b.what, diff)
	}
	if diff := cmp.Diff(a.header["Www-Authenticate"], b.header["Www-Authenticate"]); diff != "" {
		t.Errorf("%s and %s differ:\n%s", a.what, b.what, diff)
	}
}

func TestSigningInWithASecondFactor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	f := w.enroll(token)
	if len(f.backup) != 10 {
		t.Fatalf("%d backup codes", len(f.backup))
	}
	asked := w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password, "device_name": "tv"}).want(200)
	asked.keys("", "mfa_required", "challenge_id", "methods", "challenge_expires_at")
	if asked.at("mfa_required") != true || !cmp.Equal(asked.at("methods"), []any{"totp", "backup_code"}) || asked.header["Set-Cookie"] != nil {
		t.Errorf("the challenge: %s %v", asked.body, asked.header)
	}
	verify := func(method, code string) answer {
		return w.do("POST", "/v1/auth/mfa/verify", object{"challenge_id": asked.text("challenge_id"), "method": method, "code": code})
	}
	verify("totp", "000000").problem(401, "invalid_code")
	code := f.next()
	in := verify("totp", code).want(200).keys("", "token", "session").keys("session", with(grantKeys, "mfa_at")...)
	if in.at("session.aal") != float64(2) || in.at("session.device.name") != "tv" || in.cookie("rootstream").Value != in.text("token") {
		t.Errorf("the session: %s", in.body)
	}
	verify("totp", f.next()).problem(410, "challenge_gone")
	w.do("POST", "/v1/auth/mfa/verify", object{"challenge_id": "sch_unknown", "method": "totp", "code": code}).problem(410, "challenge_gone")
	w.do("POST", "/v1/auth/mfa/verify", object{"challenge_id": "sch_unknown", "method": "sms", "code": code}).problem(422, "invalid").names("method")

	asked = w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password}).want(200)
	verify("totp", code).problem(401, "invalid_code") // used before
	verify("backup_code", f.backup[0]).want(200)
	asked = w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password}).want(200)
	verify("backup_code", f.backup[0]).problem(401, "invalid_code")

	raised := w.do("POST", "/v1/auth/reauthenticate", object{"method": "totp", "code": f.next()}, as(token)).want(200)
	if raised.at("session.aal") != float64(2) {
		t.Errorf("after a code: %s", raised.body)
	}
}

func TestCodesAreABudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	w.enroll(token)
	for range 5 {
		w.do("POST", "/v1/auth/reauthenticate", object{"method": "totp", "code": "000000"}, as(token)).problem(401, "invalid_code")
	}
	limited := w.do("POST", "/v1/auth/reauthenticate", object{"method": "totp", "code": "000000"}, as(token)).problem(429, "too_many_attempts")
	retryAfter(t, limited)
}

func retryAfter(t *testing.T, a answer) {
	t.Helper()
	if s, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("%s: Retry-After is %q", a.what, a.header.Get("Retry-After"))
	}
}

func TestSessionsByCookie(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	in := w.login("ada")
	c, device := in.cookie("rootstream"), in.cookie("rootstream-device")
	if c.Value != in.text("token") || !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 0 || !c.Expires.IsZero() {
		t.Errorf("the cookie over http on loopback: %v", c)
	}
	if device.Value != in.text("session.device.id") || !device.HttpOnly || device.Expires.Before(time.Now().AddDate(0, 11, 0)) {
		t.Errorf("the device's cookie: %v", device)
	}
	w.do("GET", "/v1/users/me", nil, withCookies(c)).want(200)
	w.do("GET", "/v1/users/me", nil, withCookies(c), as("sst_other")).problem(401, "unauthenticated") // the header goes first

	later := w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password, "remember": true}, withCookies(device)).want(200)
	if later.at("session.device.id") != in.at("session.device.id") {
		t.Error("the device is not recognised by its cookie")
	}
	if kept := later.cookie("rootstream"); kept.Expires.Before(time.Now().AddDate(0, 2, 0)) {
		t.Errorf("a remembered session's cookie ends %v", kept.Expires)
	}
	w.do("POST", "/v1/auth/logout", nil, withCookies(c)).want(204)
	w.do("GET", "/v1/users/me", nil, withCookies(c)).problem(401, "unauthenticated")
}

func TestHostCookieOverHTTPS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, behindProxy)
	w.register("ada")
	const body = `{"login":"ada","password":"` + password + `"}`
	in := w.from("10.1.2.3:4444", "POST", "/v1/auth/login", body, withHeader("X-Forwarded-For", "203.0.113.7"), withHeader("X-Forwarded-Proto", "https")).want(200)
	c := in.cookie("__Host-rootstream")
	if !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || in.cookie("__Host-rootstream-device").Value == "" {
		t.Errorf("the cookie over https: %v", c)
	}
	if in.at("session.device.ip") != "203.0.113.7" {
		t.Errorf("the client's address: %s", in.body)
	}
	https := []tune{withHeader("X-Forwarded-For", "203.0.113.7"), withHeader("X-Forwarded-Proto", "https")}
	w.from("10.1.2.3:4444", "GET", "/v1/users/me", "", append(https, withCookies(c))...).want(200)
	// A page without TLS or a neighbour's page can plant a cookie of the plain name.
	planted := &http.Cookie{Name: "rootstream", Value: c.Value}
	w.from("10.1.2.3:4444", "GET", "/v1/users/me", "", append(https, withCookies(planted))...).problem(401, "unauthenticated")
	out := w.from("10.1.2.3:4444", "POST", "/v1/auth/logout", "", append(https, withCookies(c))...).want(204)
	if gone := out.cookie("__Host-rootstream"); gone.MaxAge >= 0 || !gone.Secure || gone.Path != "/" {
		t.Errorf("the cookie that takes it away: %v", gone)
	}
}

func TestOneAnswerForEveryTokenThatIsNoGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	revoked, expired := w.token("ada"), w.token("bob")
	w.do("POST", "/v1/auth/logout", nil, as(revoked)).want(204)
	_, err := w.db.Exec(t.Context(), `update sessions set created_at = created_at - interval '3 hours', expires_at = now() - interval '1 second'
		where user_id = (select id from users where username = 'bob')`)
	must(t, err)
	missing := w.do("GET", "/v1/users/me", nil).problem(401, "unauthenticated")
	if missing.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("WWW-Authenticate is %q", missing.header.Get("WWW-Authenticate"))
	}
	for name, token := range map[string]string{
		"garbage": "garbage", "well-formed and unknown": "sst_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "revoked": revoked, "expired": expired,
		"empty": "", "a service's": serviceToken,
	} {
		t.Log(name)
		sameProblem(t, missing, w.do("GET", "/v1/users/me", nil, as(token)))
		sameProblem(t, missing, w.do("POST", "/v1/auth/refresh", nil, as(token)))
		sameProblem(t, missing, w.do("POST", "/v1/auth/logout", nil, as(token)))
		sameProblem(t, missing, w.do("GET", "/v1/auth/forward", nil, as(token)))
	}
	sameProblem(t, missing, w.do("GET", "/v1/users/me", nil, withHeader("Authorization", "Basic YWRhOmFkYQ==")))
}

func TestSessionLimitIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.session.MaxSessions, o.session.OnLimit = 2, session.Deny })
	w.token("ada")
	w.login("ada")
	w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password}).problem(409, "session_limit")
}

func TestTooManyAttemptsSayWhenToTryAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.auth.Rate = auth.Rates{FreeClient: 2, RegisterNetwork: 1} })
	w.register("ada")
	limited := w.do("POST", "/v1/users", object{"username": "bob", "email": "bob@example.org", "password": password}).problem(429, "rate_limited")
	retryAfter(t, limited)
	for range 2 {
		w.do("POST", "/v1/auth/login", object{"login": "ada", "password": "wrong password of this"}).problem(401, "invalid_credentials")
	}
	retryAfter(t, w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password}).problem(429, "rate_limited"))
}

func TestWithoutAKeysetTheRestWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.noKeys = true })
	token := w.token("ada")
	w.do("GET", "/v1/users/me", nil, as(token)).want(200)
	retryAfter(t, w.do("POST", "/v1/mfa/totp", nil, as(token)).problem(503, "keyset_missing"))
	retryAfter(t, w.do("POST", "/v1/auth/refresh", nil, as(token)).problem(503, "keyset_missing"))
}

func TestWritesOfAnAccountAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.auth.Rate = auth.Rates{Writes: 3} })
	token, other := w.token("ada"), w.token("bob")
	write := func(token string) answer {
		return w.do("POST", "/v1/streams", object{"name": "s"}, as(token))
	}
	for range 3 {
		write(token).want(201)
	}
	if a := write(token).problem(429, "rate_limited"); a.header.Get("Retry-After") == "" {
		t.Error("nobody says when to try again")
	}
	w.do("GET", "/v1/streams", nil, as(token)).want(200)
	write(other).want(201)
	w.clock.Advance(time.Minute)
	write(token).want(201)
}
