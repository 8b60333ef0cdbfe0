package api_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/api"
	"rootstream/api/strict"
	"rootstream/session"
)

// What the short way reads means the same to the ordinary way.
func FuzzScanValidate(f *testing.F) {
	for _, s := range []string{`{"token":"x"}`, ` { "token" : "x" , "ip" : "::1" } `, `{"token":"x","token":"y"}`, `{"token":"\u0041"}`, `{"token":"x"} `, `{"TOKEN":"x"}`, `{"token":"x",}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		have, ok := api.ScanValidate(body)
		if !ok {
			return
		}
		if err := strict.Check([]byte(body)); err != nil {
			t.Fatalf("the short way takes what the ordinary one refuses: %q: %v", body, err)
		}
		var want api.ValidateRequest
		d := json.NewDecoder(strings.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&want); err != nil || have != want || !strings.Contains(body, `"token"`) {
			t.Fatalf("%q: %+v, %v; want %+v", body, have, err, want)
		}
	})
}

func FuzzScanBatch(f *testing.F) {
	for _, s := range []string{`{"tokens":["x","y"]}`, ` { "tokens" : [ "x" ] } `, `{"tokens":[]}`, `{"tokens":["x",]}`, `{"tokens":["x"],"tokens":["y"]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		have, ok := api.ScanBatch(body)
		if !ok {
			return
		}
		var want struct {
			Tokens []string `json:"tokens"`
		}
		err := errors.Join(strict.Check([]byte(body)), json.Unmarshal([]byte(body), &want))
		if err != nil || !slices.Equal(have, want.Tokens) {
			t.Fatalf("%q: %q, %v; want %q", body, have, err, want.Tokens)
		}
	})
}

// The walk ends at a stranger, at garbage, or at the last of the proxies.
func FuzzClientBehind(f *testing.F) {
	f.Add("203.0.113.7, 10.0.0.2", "10.0.0.3")
	f.Add("", ", ,")
	f.Add("10.0.0.1", "[::1]:80")
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	proxy := netip.MustParseAddr("10.0.0.1")
	f.Fuzz(func(t *testing.T, a, b string) {
		at := api.ClientBehind(proxy, []string{a, b}, trusted)
		if !at.IsValid() || at.Zone() != "" || at.Is4In6() {
			t.Fatalf("%q %q: %v", a, b, at)
		}
		// Whatever a client puts further to the left changes nothing once a stranger was met.
		if !trusted[0].Contains(at) && api.ClientBehind(proxy, []string{"198.51.100.9", a, b}, trusted) != at {
			t.Fatalf("%q %q: a claim moves %v", a, b, at)
		}
	})
}

func FuzzRequestID(f *testing.F) {
	f.Add("trace-0123")
	f.Add("\r\nX: y")
	f.Fuzz(func(t *testing.T, given string) {
		id := api.RequestID(&http.Request{Header: http.Header{"X-Request-Id": {given}}})
		if len(id) < 8 || len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", r)
		}) {
			t.Fatalf("%q becomes %q", given, id)
		}
	})
}

// Answers written by hand are those of encoding/json.
func FuzzVerdict(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), int64(1753000000123456), int64(0), uint8(1), true)
	f.Add([]byte{}, int64(1), int64(1753000000000000), uint8(2), false)
	f.Fuzz(func(t *testing.T, raw []byte, created, mfaAt int64, role uint8, flag bool) {
		const year9999 = 253402300799000000
		v := session.View{
			CreatedAt: max(min(created, year9999), 1), AuthAt: 1, ExpiresAt: year9999, MFAAt: max(min(mfaAt, year9999), 0),
			Role: session.Role(role % 3), AAL: 1 + role%2, Verified: flag, Remembered: !flag, Device: session.DeviceMatch(role % 3),
		}
		copy(v.SessionID[:], raw)
		want, err := json.Marshal(api.VerdictOf(&v, true))
		must(t, err)
		if diff := cmp.Diff(string(want), string(api.AppendVerdict(nil, &v, true))); diff != "" {
			t.Fatal(diff)
		}
		if string(api.AppendVerdict(nil, &v, false)) != `{"valid":false}` {
			t.Fatal("not valid")
		}
	})
}

func TestOnlyAddressesAndLocalhostAreThisMachine(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"": true, "127.0.0.1": true, "127.0.0.1:8080": true, "[::1]": true, "[::1]:8080": true, "localhost": true, "LOCALHOST:80": true, "10.0.0.1:80": true,
		"evil.example": false, "evil.example:80": false, "1.evil.example": false, "localhost.evil.example": false, "127.0.0.1.evil.example:80": false, "[::1": true, "[]": false,
	} {
		if api.LocalHost(host) != want {
			t.Errorf("%q: %v, want %v", host, !want, want)
		}
	}
}

func TestPathsAreCleanOrUnknown(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "/", "/": "/", "/a": "/a", "/a/": "/a/", "//a": "/a", "/a/../b": "/b", "/..": "/", "/a/./": "/a/", "*": "/*"} {
		if have := api.CleanPath(in); have != want {
			t.Errorf("%q: %q, want %q", in, have, want)
		}
	}
}

func TestValuesThatFitNoFieldAreNamed(t *testing.T) {
	t.Parallel()
	var v struct {
		N  int       `json:"n"`
		At time.Time `json:"at"`
		ID uuid.UUID `json:"id"`
	}
	for body, want := range map[string]string{`{"n":1e30}`: "n\x1f", `{"at":"yesterday"}`: "", `{"id":"x"}`: "", `[]`: ""} {
		err := api.Unmarshal([]byte(body), &v)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "yesterday") {
			t.Errorf("%s: %v", body, err)
		}
	}
}
