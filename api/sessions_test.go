package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func TestOwnSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.token("ada")
	second := w.login("ada")
	third := w.login("ada").text("token")
	stranger := w.token("bob")
	list := w.do("GET", "/v1/sessions", nil, as(first)).want(200).keys("", "items").keys("items.0", with(sessionKeys, "current")...)
	current := 0
	for _, s := range list.at("items").([]any) {
		if s.(object)["current"] == true {
			current++
		} else if id, known := s.(object)["device"].(object)["id"]; known { // with it a thief would pass for a known device
			t.Errorf("a session tells another one's device id %s", id)
		}
	}
	if len(list.at("items").([]any)) != 3 || current != 1 {
		t.Errorf("ada's sessions: %s", list.body)
	}
	path := "/v1/sessions/" + second.text("session.id")
	renamed := w.do("PATCH", path, object{"device_name": "TV in the kitchen"}, as(first)).want(200).keys("", sessionKeys...)
	if renamed.at("device.name") != "TV in the kitchen" {
		t.Errorf("renamed: %s", renamed.body)
	}
	w.do("PATCH", path, object{"device_name": "mine"}, as(stranger)).problem(404, "session_not_found")
	w.do("DELETE", path, nil, as(stranger)).problem(404, "session_not_found")
	w.do("DELETE", "/v1/sessions/"+uuid.NewString(), nil, as(stranger)).problem(404, "session_not_found")
	w.do("DELETE", path, nil, as(first)).want(204)
	w.do("GET", "/v1/users/me", nil, as(second.text("token"))).problem(401, "unauthenticated")

	w.do("DELETE", "/v1/sessions", nil, as(first)).problem(422, "invalid").names("scope")
	w.do("DELETE", "/v1/sessions?scope=mine", nil, as(first)).problem(422, "invalid").names("scope")
	if others := w.do("DELETE", "/v1/sessions?scope=others", nil, as(first)).want(204); others.header["Set-Cookie"] != nil {
		t.Errorf("the session stays and its cookie goes: %v", others.header)
	}
	w.do("GET", "/v1/users/me", nil, as(third)).problem(401, "unauthenticated")
	if all := w.do("DELETE", "/v1/sessions?scope=all", nil, as(first)).want(204); all.cookie("rootstream").MaxAge >= 0 {
		t.Error("the cookie stays")
	}
	w.do("GET", "/v1/users/me", nil, as(first)).problem(401, "unauthenticated")
	w.do("GET", "/v1/users/me", nil, as(stranger)).want(200)
}

var verdictKeys = []string{"id", "user_id", "role", "aal", "verified", "remembered", "authenticated_at", "created_at", "expires_at"}

const firefox = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"

func TestValidate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	in := w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password}, withHeader("User-Agent", firefox)).want(200)
	token := in.text("token")
	for _, strong := range []bool{false, true} {
		v := w.do("POST", "/v1/sessions/validate", object{"token": token, "strong": strong}).want(200)
		v.keys("", "valid", "session", "device").keys("session", verdictKeys...)
		if v.at("valid") != true || v.at("device") != "match" || v.at("session.id") != in.at("session.id") || v.at("session.user_id") != in.at("session.user_id") ||
			v.at("session.aal") != float64(1) || v.at("session.role") != "user" || v.at("session.expires_at") != in.at("session.expires_at") {
			t.Errorf("strong=%v: %s of %s", strong, v.body, in.body)
		}
	}
	for device, want := range map[string]string{in.text("session.device.id"): "match", "another": "changed"} {
		if v := w.do("POST", "/v1/sessions/validate", object{"token": token, "device_id": device, "user_agent": firefox, "ip": "198.51.100.1"}).want(200); v.at("device") != want {
			t.Errorf("device %s: %s", device, v.body)
		}
	}
	if v := w.do("POST", "/v1/sessions/validate", object{"token": token, "user_agent": "Mozilla/5.0 (iPhone) Safari/605.1"}).want(200); v.at("device") != "changed" {
		t.Errorf("another browser: %s", v.body)
	}
	w.do("POST", "/v1/sessions/validate", object{"token": token, "ip": "not an address"}).problem(422, "invalid").names("ip")
	w.do("POST", "/v1/auth/logout", nil, as(token)).want(204)
	for _, bad := range []string{token, "", "garbage", "é", "\\", strings.Repeat("x", 5000)} {
		w.do("POST", "/v1/sessions/validate", object{"token": bad}).want(200).keys("", "valid")
	}
}

func TestValidateBatchAnswersInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob := w.token("ada"), w.token("bob")
	for _, odd := range []string{"garbage", "gar\\bage é"} { // by the short way and by the ordinary one
		v := w.do("POST", "/v1/sessions/validate-batch", object{"tokens": []string{ada, odd, bob, ada}}).want(200).keys("", "items")
		v.keys("items.0", "valid", "session", "device").keys("items.1", "valid").keys("items.0.session", verdictKeys...)
		if len(v.at("items").([]any)) != 4 || v.at("items.0.session.id") != v.at("items.3.session.id") || v.at("items.0.session.id") == v.at("items.2.session.id") || v.at("items.1.valid") != false {
			t.Errorf("in order: %s", v.body)
		}
	}
	if empty := w.do("POST", "/v1/sessions/validate-batch", object{"tokens": []string{}}).want(200); string(empty.body) != `{"items":[]}`+"\n" {
		t.Errorf("nothing asked: %s", empty.body)
	}
	w.do("POST", "/v1/sessions/validate-batch", object{"tokens": make([]string, 1000)}).want(200)
	w.do("POST", "/v1/sessions/validate-batch", object{"tokens": make([]string, 1001)}).problem(422, "invalid").names("tokens")
	w.do("POST", "/v1/sessions/validate-batch", object{"tokens": []any{ada, 7}}).problem(422, "invalid").names("tokens[1]")
}

// The short way answers byte for byte what the ordinary way does.
func TestShortAndOrdinaryWayAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.token("ada")
	f := w.enroll(ada)
	asked := w.do("POST", "/v1/auth/login", object{"login": "ada", "password": password}).want(200)
	strong := w.do("POST", "/v1/auth/mfa/verify", object{"challenge_id": asked.text("challenge_id"), "method": "totp", "code": f.next()}).want(200).text("token")
	for _, token := range []string{ada, strong, "garbage"} {
		for _, body := range []string{`{"token":%q}`, ` { "token" : %q , "user_agent":"x","device_id":"d","ip":"192.0.2.1" } `, `{"token":"","token":%q}`, `{"token":%q,"ip":"x"}`} {
			body = fmt.Sprintf(body, token)
			short := w.do("POST", "/v1/sessions/validate", body)
			ordinary := w.do("POST", "/v1/sessions/validate", body, withHeader("Content-Type", "application/json; charset=utf-8"))
			agree(t, short, ordinary)
		}
		body, err := json.Marshal(object{"tokens": []string{token, "x", strong}})
		must(t, err)
		agree(t, w.do("POST", "/v1/sessions/validate-batch", body), w.do("POST", "/v1/sessions/validate-batch", body, withHeader("Content-Type", "application/json; charset=utf-8")))
	}
}

func agree(t *testing.T, a, b answer) {
	t.Helper()
	if a.status != 200 {
		sameProblem(t, a, b)
		return
	}
	if diff := cmp.Diff(strings.TrimSpace(string(b.body)), string(a.body)); diff != "" || a.header.Get("Content-Type") != b.header.Get("Content-Type") || a.status != b.status {
		t.Errorf("%s: the short way differs (-ordinary +short):\n%s", a.what, diff)
	}
}

func TestServicesCallFromTheMachineOrWithAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, behindProxy)
	body := func(method string) string {
		if method == "GET" {
			return ""
		}
		return `{"token":"x","tokens":["x"]}`
	}
	proxied := []tune{withHeader("X-Forwarded-For", "203.0.113.7"), withHeader("X-Forwarded-Proto", "https")}
	for _, route := range [][2]string{{"POST", "/v1/sessions/validate"}, {"POST", "/v1/sessions/validate-batch"}, {"GET", "/metrics"}} {
		call := func(addr string, tunes ...tune) answer {
			return w.from(addr, route[0], route[1], body(route[0]), tunes...)
		}
		passed := func(a answer) {
			t.Helper()
			if a.status == 401 || a.status == 403 {
				t.Errorf("%s is refused: %s", a.what, a.body)
			}
		}
		local := func(r *http.Request) { r.Host = "127.0.0.1:8080" }
		passed(call("127.0.0.1:999", local))
		passed(call("[::1]:999", func(r *http.Request) { r.Host = "localhost" }))
		passed(call("[::ffff:127.0.0.1]:999", func(r *http.Request) { r.Host = "[::1]:80" }))
		call("127.0.0.1:999").problem(401, "service_token_required") // by a name: a page may have pointed it here
		call("127.0.0.1:999", local, withHeader("X-Forwarded-For", "203.0.113.7")).problem(401, "service_token_required")
		call("127.0.0.1:999", local, withHeader("Forwarded", "for=203.0.113.7")).problem(401, "service_token_required")
		call("10.0.0.1:999", proxied...).problem(401, "service_token_required")
		call("10.0.0.1:999", append(proxied, as("wrong"))...).problem(401, "service_token_required")
		call("10.0.0.1:999", append(proxied, as(strings.Repeat("x", 600)))...).problem(401, "service_token_required")
		passed(call("10.0.0.1:999", append(proxied, as(serviceToken))...))
		passed(call("127.0.0.1:999", as(serviceToken)))
	}
}

func TestForwardAuth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, behindProxy)
	ada := w.actor("ada", "user", 2, false)
	check := func(a answer) {
		t.Helper()
		a.want(200)
		if a.header.Get("X-Rootstream-User") != ada.user.PublicID.String() || a.header.Get("X-Rootstream-Session") != ada.id.String() ||
			a.header.Get("X-Rootstream-Aal") != "2" || len(a.body) != 0 {
			t.Errorf("%s: %v %s", a.what, a.header, a.body)
		}
	}
	check(w.do("GET", "/v1/auth/forward", nil, as(ada.token)))
	check(w.do("HEAD", "/v1/auth/forward", nil, as(ada.token)))
	check(w.do("GET", "/v1/auth/forward?next=/page", nil, as(ada.token)))
	check(w.do("GET", "/v1/auth/forward", nil, withCookies(&http.Cookie{Name: "__Host-rootstream", Value: ada.token})))
	check(w.do("GET", "/v1/auth/forward", nil, withCookies(&http.Cookie{Name: "rootstream", Value: ada.token})))
	// A proxy beside us says that it is one, and may; it knows whether its client came by https.
	check(w.do("GET", "/v1/auth/forward", nil, as(ada.token), withHeader("X-Forwarded-For", "203.0.113.7"), withHeader("X-Forwarded-Proto", "https")))
	w.do("GET", "/v1/auth/forward", nil, withCookies(&http.Cookie{Name: "rootstream", Value: ada.token}), withHeader("X-Forwarded-Proto", "https")).problem(401, "unauthenticated")
	// Envoy asks with the method, the path and the headers of what it holds.
	check(w.do("DELETE", "/v1/auth/forward/app/thing?x=1", nil, as(ada.token), withHeader("Origin", "https://other.example"), withHeader("Sec-Fetch-Site", "cross-site")))
	w.do("POST", "/v1/auth/forward/app", "not json at all", as("bad")).problem(401, "unauthenticated")

	proxied := []tune{withHeader("X-Forwarded-For", "203.0.113.7"), withHeader("X-Forwarded-Proto", "https"), as(ada.token)}
	w.from("10.0.0.1:999", "GET", "/v1/auth/forward", "", proxied...).problem(401, "service_token_required")
	check(w.from("10.0.0.1:999", "GET", "/v1/auth/forward", "", append(proxied, withHeader("X-Service-Token", serviceToken))...))
}
