package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"rootstream/session"
)

// Over https cookies carry the __Host- prefix, so that neither a page without
// TLS nor a neighbour below the same domain can plant one. Over plain http,
// which is served on loopback only, browsers would drop such a cookie.
const (
	hostCookie        = "__Host-rootstream"
	plainCookie       = "rootstream"
	hostDeviceCookie  = "__Host-rootstream-device"
	plainDeviceCookie = "rootstream-device"
	deviceHeader      = "X-Device-Id"
)

const deviceCookieLife = 365 * 24 * time.Hour

func cookieNames(p peer) (session, device string) {
	if p.https {
		return hostCookie, hostDeviceCookie
	}
	return plainCookie, plainDeviceCookie
}

// bearer is the token of an Authorization header; ok tells that there is such a header.
func bearer(h http.Header) (token string, ok bool) {
	scheme, token, ok := strings.Cut(h.Get("Authorization"), " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "bearer")
}

// tokenOf takes the bearer token, else the cookie's.
func tokenOf(r *http.Request, p peer) string {
	if token, ok := bearer(r.Header); ok {
		return token
	}
	name, _ := cookieNames(p)
	return cookieOf(r, name)
}

func deviceOf(r *http.Request, p peer) string {
	id := r.Header.Get(deviceHeader)
	if id == "" {
		_, name := cookieNames(p)
		id = cookieOf(r, name)
	}
	if len(id) > 255 || strings.ContainsFunc(id, notOctet) {
		return "" // could not go back in a cookie
	}
	return id
}

// notOctet reports what a cookie's value cannot hold; RFC 6265, 4.1.1.
func notOctet(c rune) bool {
	return c <= ' ' || c > '~' || c == '"' || c == ',' || c == ';' || c == '\\'
}

func cookieOf(r *http.Request, name string) string {
	for _, c := range r.CookiesNamed(name) {
		return c.Value
	}
	return ""
}

// signInCookies are those that a sign-in sets.
func signInCookies(ctx context.Context, token string, s session.Session) []http.Cookie {
	p := factsOf(ctx).peer
	name, deviceName := cookieNames(p)
	until := time.Time{} // it ends with the browser
	if s.Remembered {
		until = s.ExpiresAt
	}
	return []http.Cookie{cookie(p, name, token, until), cookie(p, deviceName, s.Device.ID, time.Now().Add(deviceCookieLife))}
}

// signedOut takes the cookie away again. The device stays known.
type signedOut struct {
	SetCookie []http.Cookie `header:"Set-Cookie"`
}

func signOut(ctx context.Context, err error) (*signedOut, error) {
	if err != nil {
		return nil, err
	}
	p := factsOf(ctx).peer
	name, _ := cookieNames(p)
	return &signedOut{[]http.Cookie{cookie(p, name, "", time.Unix(1, 0))}}, nil
}

// cookie is one that lives until a time; without a value it takes itself away.
func cookie(p peer, name, value string, until time.Time) http.Cookie {
	maxAge := 0
	if value == "" {
		maxAge = -1
	}
	return http.Cookie{ //nolint:gosec // not Secure over plain http on loopback only, see above
		Name: name, Value: value, Path: "/", Expires: until, MaxAge: maxAge, HttpOnly: true, Secure: p.https, SameSite: http.SameSiteLaxMode,
	}
}
