package api_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"rootstream/auth"
	"rootstream/notify"
)

const form = "application/x-www-form-urlencoded"

// submit posts a page's form as a browser does.
func (w *world) submit(path string, fields map[string]string) answer {
	w.tb.Helper()
	values := url.Values{}
	for k, v := range fields {
		values.Set(k, v)
	}
	return w.do("POST", path, values.Encode(), withHeader("Content-Type", form), withHeader("Origin", w.url), withHeader("Sec-Fetch-Site", "same-origin"))
}

// shown checks what every page has, and returns its text.
func (a answer) shown(status int) string {
	a.tb.Helper()
	a.want(status)
	body := string(a.body)
	csp := a.header.Get("Content-Security-Policy")
	nonce := regexp.MustCompile(`'nonce-([A-Z2-7]{26})'`).FindStringSubmatch(csp)
	if nonce == nil {
		a.tb.Fatalf("%s: the policy is %q", a.what, csp)
	}
	for _, part := range []string{"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(csp, part) {
			a.tb.Errorf("%s: the policy lacks %s: %s", a.what, part, csp)
		}
	}
	if strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") {
		a.tb.Errorf("%s: the policy is loose: %s", a.what, csp)
	}
	for _, tag := range regexp.MustCompile(`<(script|style)[^>]*>`).FindAllString(body, -1) {
		if !strings.Contains(tag, `nonce="`+nonce[1]+`"`) {
			a.tb.Errorf("%s: %s has not the nonce", a.what, tag)
		}
	}
	if regexp.MustCompile(`(?i)\son[a-z]+=|style="|https?://|<img|<link`).MatchString(body) {
		a.tb.Errorf("%s: the page does or loads something the policy forbids: %s", a.what, body)
	}
	if a.header.Get("Content-Type") != "text/html; charset=utf-8" || a.header.Get("Referrer-Policy") != "no-referrer" || a.header.Get("Cache-Control") != "no-store" {
		a.tb.Errorf("%s: %v", a.what, a.header)
	}
	return body
}

func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for path, fields := range map[string][]string{
		"/setup": {"token", "username", "email", "password"}, "/verify": {"token"}, "/recover": {"token", "password"},
		"/email/confirm": {"token"}, "/email/undo": {"token"},
	} {
		first, second := w.do("GET", path, nil), w.do("GET", path, nil)
		page := first.shown(200)
		if first.header.Get("Content-Security-Policy") == second.header.Get("Content-Security-Policy") {
			t.Errorf("%s: the nonce is the same again", path)
		}
		var have []string
		for _, m := range regexp.MustCompile(`<input name="([a-z]+)"`).FindAllStringSubmatch(page, -1) {
			have = append(have, m[1])
		}
		if strings.Join(have, " ") != strings.Join(fields, " ") || !strings.Contains(page, `<form method="post" action="`+path+`">`) || !strings.Contains(page, "<html lang=") {
			t.Errorf("%s has the fields %v, want %v", path, have, fields)
		}
		if n := strings.Count(page, "<label>"); n != len(fields) {
			t.Errorf("%s: %d labels", path, n)
		}
		w.submit(path, map[string]string{"token": "sut_wrong", "password": "short", "username": "x"})
		if page := w.do("HEAD", path, nil).want(200); len(page.body) != 0 {
			t.Errorf("HEAD %s has a body", path)
		}
		w.do("POST", path, `{"token":"x"}`).shown(415)
		w.do("POST", path, "token=%zz", withHeader("Content-Type", form)).shown(400)
		w.do("POST", path, "token="+strings.Repeat("x", 1<<20), withHeader("Content-Type", form)).shown(413)
		w.do("PUT", path, nil).problem(405, "method_not_allowed")
	}
}

func TestPagesDoWhatTheySay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	setup, err := w.auth.IssueSetupToken(t.Context())
	must(t, err)
	in := map[string]string{"token": setup.Reveal(), "username": "root", "email": "root@example.org", "password": "short"}
	page := w.submit("/setup", in).shown(422)
	if !strings.Contains(page, "password must be at least") || !strings.Contains(page, `value="root@example.org"`) || strings.Contains(page, `value="short"`) {
		t.Errorf("the page after a short password: %s", page)
	}
	in["password"] = password
	if page := w.submit("/setup", in).shown(200); !strings.Contains(page, "administrator now") || strings.Contains(page, "<form") {
		t.Errorf("the page at the end: %s", page)
	}
	w.submit("/setup", in).shown(409)

	if page := w.submit("/verify", map[string]string{"token": w.mailed(notify.TopicVerifyEmail)}).shown(200); !strings.Contains(page, "verified") {
		t.Errorf("verifying: %s", page)
	}
	w.submit("/verify", map[string]string{"token": "sut_wrong"}).shown(410)

	w.do("POST", "/v1/auth/recovery", object{"login": "root"}).want(202)
	link := w.mailed(auth.TopicRecovery)
	w.submit("/recover", map[string]string{"token": link, "password": "short"}).shown(422)
	w.submit("/recover", map[string]string{"token": link, "password": "an entirely new password"}).shown(200)
	a := w.do("POST", "/v1/auth/login", object{"login": "root", "password": "an entirely new password"}).want(200)

	token, _ := a.json()["token"].(string)
	w.do("POST", "/v1/users/me/email", object{"email": "root@example.net"}, as(token)).want(202)
	w.submit("/email/confirm", map[string]string{"token": w.mailed(notify.TopicEmailConfirm)}).shown(200)
	if me := w.do("GET", "/v1/users/me", nil, as(token)).want(200).json(); me["email"] != "root@example.net" || me["verified"] != true {
		t.Errorf("after the change: %v", me)
	}
	undo := map[string]string{"token": w.mailed(notify.TopicEmailChanged)}
	w.submit("/email/undo", undo).shown(200)
	w.submit("/email/undo", undo).shown(410)
	w.do("GET", "/v1/users/me", nil, as(token)).problem(401, "unauthenticated")
}

func TestPagesShowTextsAsTexts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const evil = `"><script>alert(1)</script>` + "\x00\xff{{.}}"
	page := w.submit("/setup", map[string]string{"token": evil, "username": evil, "email": evil, "password": evil}).shown(422)
	if strings.Contains(page, "<script>alert") {
		t.Errorf("a text becomes a part of the page: %s", page)
	}
	for _, path := range []string{"/setup", "/verify", "/recover", "/email/confirm", "/email/undo"} {
		shown := w.submit(path, map[string]string{"token": evil, "password": password, "username": "root", "email": "root@example.org"})
		if page := shown.shown(shown.status); shown.status >= 500 || strings.Contains(page, "<script>alert") {
			t.Errorf("%s: %d %s", path, shown.status, page)
		}
	}
}
