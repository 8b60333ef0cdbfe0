package api_test

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rootstream/api"
	"rootstream/errs"
	"rootstream/session"
	"rootstream/user"
)

// behindProxy trusts proxies in 10.0.0.0/8 and 2001:db8::/32.
func behindProxy(o *option) {
	o.api.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
}

func TestPitfall07AddressesComeFromTrustedProxiesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, behindProxy)
	w.register("ada")
	const body = `{"login":"ada","password":"` + password + `"}`
	for _, tt := range []struct {
		name, remote string
		xff          []string
		want         string // "" means refused: nobody says that TLS was ended
	}{
		{"straight from this machine", "127.0.0.1:5", nil, "127.0.0.1"},
		{"a stranger's claim", "127.0.0.1:5", []string{"198.51.100.1"}, "127.0.0.1"},
		{"through a proxy", "10.0.0.1:5", []string{"203.0.113.7"}, "203.0.113.7"},
		{"the client made up what stands left", "10.0.0.1:5", []string{"198.51.100.1, 203.0.113.7"}, "203.0.113.7"},
		{"in two headers", "10.0.0.1:5", []string{"198.51.100.1", "203.0.113.7"}, "203.0.113.7"},
		{"two proxies", "10.0.0.1:5", []string{"198.51.100.1, 203.0.113.7, 10.9.9.9"}, "203.0.113.7"},
		{"the client claims to be a proxy", "10.0.0.1:5", []string{"10.8.8.8, 203.0.113.7"}, "203.0.113.7"},
		{"no address at all", "10.0.0.1:5", nil, "10.0.0.1"},
		{"garbage ends the walk", "10.0.0.1:5", []string{"203.0.113.7, unknown"}, "10.0.0.1"},
		{"IPv6", "[2001:db8::1]:5", []string{"2a00::7"}, "2a00::7"},
		{"mapped", "[::ffff:10.0.0.1]:5", []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		{"a stranger over plain http", "203.0.113.7:5", []string{"10.0.0.1"}, ""},
	} {
		var tunes []tune
		for _, v := range tt.xff {
			tunes = append(tunes, func(r *http.Request) { r.Header.Add("X-Forwarded-For", v) })
		}
		a := w.from(tt.remote, "POST", "/v1/auth/login", body, tunes...)
		if tt.want == "" {
			a.problem(403, "https_required")
			continue
		}
		if have := a.want(200).at("session.device.ip"); have != tt.want {
			t.Errorf("%s: the client's address is %v, want %s", tt.name, have, tt.want)
		}
	}
}

func TestPitfall07LimitsHoldHoweverTheHeaderIsForged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, behindProxy, func(o *option) { o.auth.Rate.RegisterNetwork = 3 })
	refused := 0
	for i := range 6 {
		name := "user" + string(rune('a'+i))
		a := w.from("10.0.0.1:5", "POST", "/v1/users", `{"username":"`+name+`","email":"`+name+`@example.org","password":"`+password+`"}`,
			withHeader("X-Forwarded-For", "198.51."+string(rune('0'+i))+".1, 203.0.113.7"))
		if a.status == 429 {
			refused++
		}
	}
	if refused != 3 {
		t.Errorf("%d of 6 refused, want 3", refused)
	}
}

func TestPlainHTTPStaysOnTheMachine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, behindProxy)
	proto := func(p string) tune { return withHeader("X-Forwarded-Proto", p) }
	from := func(addr string) tune { return withHeader("X-Forwarded-For", addr) }
	w.from("127.0.0.1:5", "GET", "/healthz", "").want(200)
	w.from("[::1]:5", "GET", "/healthz", "").want(200)
	w.from("203.0.113.7:5", "GET", "/healthz", "").problem(403, "https_required")
	w.from("203.0.113.7:5", "GET", "/healthz", "", proto("https")).problem(403, "https_required")
	w.from("10.0.0.1:5", "GET", "/healthz", "", from("203.0.113.7")).want(200)
	w.from("10.0.0.1:5", "GET", "/healthz", "", from("203.0.113.7"), proto("https")).want(200)
	w.from("10.0.0.1:5", "GET", "/healthz", "", from("203.0.113.7"), proto("http")).problem(403, "https_required")
	w.from("not an address", "GET", "/healthz", "").problem(403, "https_required")
	own := newWorld(t, func(o *option) { o.api.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	own.from("127.0.0.1:5", "GET", "/healthz", "").want(200)
	own.from("127.0.0.1:5", "GET", "/healthz", "", from("203.0.113.7"), proto("http")).problem(403, "https_required")
}

func TestPitfall39OtherSitesPagesMayDoNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	cookie := withCookies(&http.Cookie{Name: "rootstream", Value: token})
	foreign := map[string][]tune{
		"by Sec-Fetch-Site":       {withHeader("Sec-Fetch-Site", "cross-site"), withHeader("Origin", "https://evil.example")},
		"by a neighbour":          {withHeader("Sec-Fetch-Site", "same-site"), withHeader("Origin", "https://sub.example.org")},
		"by Origin alone":         {withHeader("Origin", "https://evil.example")},
		"by an origin that hides": {withHeader("Origin", "null")},
	}
	for name, tunes := range foreign {
		for _, call := range [][2]string{
			{"POST", "/v1/auth/logout"},
			{"POST", "/v1/auth/login"},
			{"DELETE", "/v1/users/me"},
			{"PATCH", "/v1/users/me"},
			{"POST", "/v1/sessions/validate"},
			{"POST", "/v1/sessions/validate-batch"},
			{"POST", "/setup"},
			{"POST", "/recover"},
		} {
			t.Log(name)
			w.do(call[0], call[1], `{"login":"ada","password":"`+password+`"}`, append(tunes, cookie)...).problem(403, "cross_origin")
		}
		w.do("GET", "/v1/users/me", nil, append(tunes, cookie)...).want(200) // reading: the browser keeps the answer to itself
	}
	same := []tune{cookie, withHeader("Sec-Fetch-Site", "same-origin"), withHeader("Origin", w.url)}
	w.do("PATCH", "/v1/users/me", object{"display_name": "Ada"}, same...).want(200)
	if a := w.do("GET", "/v1/users/me", nil, withHeader("Origin", "https://evil.example")); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("another site may read")
	}
	// Nothing but a POST signs anybody out, and no answer redirects.
	w.do("GET", "/v1/auth/logout", nil, cookie).problem(405, "method_not_allowed")
	w.do("GET", "/v1/auth/logout?return_to=https://evil.example", nil, cookie).problem(405, "method_not_allowed")
	w.do("POST", "/v1/auth/logout?return_to=https://evil.example", nil, cookie).problem(422, "invalid").names("return_to")
	w.do("GET", "//evil.example/..", nil).problem(404, "not_found")
	w.do("POST", "/v1/auth/logout", nil, cookie).want(204)
}

func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	if a := w.do("PUT", "/v1/users/me", object{}, as(token)).problem(405, "method_not_allowed"); a.header.Get("Allow") != "GET, HEAD, PATCH, DELETE, OPTIONS" {
		t.Errorf("Allow is %q", a.header.Get("Allow"))
	}
	options := w.do("OPTIONS", "/v1/users/me", nil).want(204)
	if options.header.Get("Allow") != "GET, HEAD, PATCH, DELETE, OPTIONS" || options.header.Get("Access-Control-Allow-Methods") != "" || len(options.body) != 0 {
		t.Errorf("OPTIONS: %v %s", options.header, options.body)
	}
	w.do("OPTIONS", "/v1/nowhere", nil).problem(404, "not_found")
	w.do("TRACE", "/v1/users/me", nil).problem(405, "method_not_allowed")
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/users/me/", "/v1//users/me", "/v1/users/../users/me", "/%00", "/v1/users/me%2f", "/.git/config"} {
		w.do("GET", path, nil, as(token)).problem(404, "not_found")
	}
	head := w.do("HEAD", "/v1/users/me", nil, as(token)).want(200)
	if len(head.body) != 0 || head.header.Get("Content-Type") != "application/json" {
		t.Errorf("HEAD: %v %q", head.header, head.body)
	}
	if w.do("HEAD", "/v1/users/me", nil).status != 401 {
		t.Error("HEAD without a token is answered")
	}
	for _, path := range []string{"/v1/users/me", "/healthz", "/v1/nowhere"} {
		if h := w.do("GET", path, nil, as(token)).header; h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if id := w.do("GET", "/healthz", nil, withHeader("X-Request-Id", "trace-0123_45.6")).header.Get("X-Request-Id"); id != "trace-0123_45.6" {
		t.Errorf("a given id becomes %q", id)
	}
	for _, bad := range []string{"short", strings.Repeat("x", 65), "with spaces in it", "<script>alert(1)</script>", "0123456é"} {
		id := w.do("GET", "/v1/users/me", nil, withHeader("X-Request-Id", bad)).problem(401, "unauthenticated").header.Get("X-Request-Id")
		if _, err := uuid.Parse(id); err != nil {
			t.Errorf("%q becomes %q", bad, id)
		}
	}
}

// trouble stands for a part that fails.
type trouble struct {
	api.Users
	err error
	act func()
}

func (x trouble) ByPublicID(context.Context, uuid.UUID) (user.User, error) {
	if x.act != nil {
		x.act()
	}
	return user.User{}, x.err
}

type troubledSessions struct {
	api.Sessions
	act func() error
}

func (x troubledSessions) Validate(context.Context, string, session.ClientHint) (session.View, error) {
	return session.View{}, x.act()
}

func (x troubledSessions) ValidateBatch(context.Context, []string) ([]session.Result, error) {
	return nil, x.act()
}

func TestInternalFaultsTellNothing(t *testing.T) {
	t.Parallel()
	const detail = "secret-detail-of-the-inside"
	for name, users := range map[string]trouble{
		"an error": {err: errs.New(errs.Internal, detail, detail)},
		"a panic":  {act: func() { panic(detail) }},
	} {
		w := newWorld(t, func(o *option) {
			o.deps = func(d *api.Deps) { users.Users = d.Users; d.Users = users }
		})
		a := w.do("GET", "/v1/users/me", nil, as(w.token("ada"))).problem(500, "internal")
		if strings.Contains(string(a.body), detail) || a.at("detail") != "something went wrong on our side" {
			t.Errorf("%s: the answer tells %s", name, a.body)
		}
		if log := w.logged.String(); !strings.Contains(log, detail) || !strings.Contains(log, a.text("request_id")) {
			t.Errorf("%s: the log does not tell, by the request's id", name)
		}
	}
}

func TestHotRoutesMeetFaultsAsWell(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		act    func() error
		status int
		code   string
	}{
		"an outage": {func() error { return session.ErrBlind }, 503, "revocations_unknown"},
		"a panic":   {func() error { panic("inside") }, 500, "internal"},
		"an error":  {func() error { return context.DeadlineExceeded }, 503, "timeout"},
	} {
		w := newWorld(t, func(o *option) {
			o.deps = func(d *api.Deps) { d.Sessions = troubledSessions{d.Sessions, tt.act} }
		})
		t.Log(name)
		for _, a := range []answer{
			w.do("POST", "/v1/sessions/validate", object{"token": "x"}).problem(tt.status, tt.code),
			w.do("POST", "/v1/sessions/validate", object{"token": "x", "strong": true}).problem(tt.status, tt.code),
			w.do("POST", "/v1/sessions/validate-batch", object{"tokens": []string{"x"}}).problem(tt.status, tt.code),
			w.do("GET", "/v1/auth/forward", nil, as("x")).problem(tt.status, tt.code),
			w.do("GET", "/v1/users/me", nil, as("x")).problem(tt.status, tt.code),
		} {
			if tt.status == 503 {
				retryAfter(t, a)
			}
		}
	}
}

func TestAnAnswerThatBreaksOffIsSeenToBreakOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) {
		o.deps = func(d *api.Deps) {
			d.Checks = append(d.Checks, api.Check{Name: "late", Probe: func(context.Context) error { panic(http.ErrAbortHandler) }})
		}
	})
	r, err := http.NewRequestWithContext(t.Context(), "GET", w.url+"/readyz", nil)
	must(t, err)
	if resp, err := client.Do(r); err == nil {
		_ = resp.Body.Close()
		t.Errorf("an aborted handler answers %d", resp.StatusCode)
	}
}

func TestSlowPartsAreGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) {
		o.api.RequestTimeout = 2 * time.Second
		o.deps = func(d *api.Deps) { d.Users = slowUsers{d.Users} }
	})
	retryAfter(t, w.do("GET", "/v1/users/me", nil, as(w.token("ada"))).problem(503, "timeout"))
}

type slowUsers struct{ api.Users }

func (slowUsers) ByPublicID(ctx context.Context, _ uuid.UUID) (user.User, error) {
	<-ctx.Done()
	return user.User{}, ctx.Err()
}

func TestPlumbing(t *testing.T) {
	t.Parallel()
	var postgres, redis error
	w := newWorld(t, func(o *option) {
		o.deps = func(d *api.Deps) {
			d.Checks = []api.Check{
				{Name: "postgresql", Required: true, Probe: func(context.Context) error { return postgres }},
				{Name: "redis", Probe: func(context.Context) error { return redis }},
			}
		}
	})
	w.do("GET", "/healthz", nil).want(200).keys("", "status")
	if a := w.do("GET", "/readyz", nil).want(200).keys("", "status", "parts"); a.at("status") != "ready" || a.at("parts.redis") != "ok" {
		t.Errorf("ready: %s", a.body)
	}
	redis = errs.New(errs.Unavailable, "cache_unavailable", "Redis does not answer").WithCause(context.DeadlineExceeded)
	if a := w.do("GET", "/readyz", nil).want(200); a.at("status") != "degraded" || a.at("parts.redis") != "Redis does not answer" {
		t.Errorf("without Redis: %s", a.body)
	}
	postgres = errs.New(errs.Unavailable, "db_unavailable", "PostgreSQL does not answer")
	if a := w.do("GET", "/readyz", nil).want(503); a.at("status") != "unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("without PostgreSQL: %s", a.body)
	}
	described := w.do("GET", "/openapi.json", nil).want(200)
	if !strings.HasPrefix(described.text("openapi"), "3.1") || !strings.Contains(described.header.Get("Content-Type"), "json") {
		t.Errorf("the description: %.200s", described.body)
	}
	w.do("POST", "/v1/sessions/validate", object{"token": "x"}).want(200)
	w.do("GET", "/v1/users/me", nil).want(401)
	numbers := string(w.do("GET", "/metrics", nil).want(200).body)
	for _, line := range []string{
		`rootstream_http_request_seconds_count{route="POST /v1/sessions/validate",status="2xx"} 1`,
		`rootstream_http_request_seconds_count{route="GET /v1/users/me",status="4xx"} 1`,
	} {
		if !strings.Contains(numbers, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
}
