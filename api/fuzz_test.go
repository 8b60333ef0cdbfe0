package api_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/api"
	"rootstream/session"
)

func TestInspectNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		body   string
		status int
		field  string
	}{
		{`{}`, 0, ""},
		{` {"a":[1,{"b":"c"}],"d":null} `, 0, ""},
		{`{"a":{"b":1},"b":1,"c":[{"b":1},{"b":2}]}`, 0, ""},
		{`{"a":"\ufffd�"}`, 0, ""},
		{`"text"`, 0, ""},
		{``, 400, "body"},
		{`{"a":1`, 400, "body"},
		{`{"a":1}}`, 400, "body"},
		{`{"a":1} 2`, 400, "body"},
		{`{"a":1,}`, 400, "body"},
		{`{"a":01}`, 400, "body"},
		{`{"a":1,"a":1}`, 400, "a"},
		{`{"a":{"b":1,"b":2}}`, 400, "a.b"},
		{`{"a":[0,{"b":1,"\u0062":2}]}`, 400, "a[1].b"},
		{`{"a":"x\u0000"}`, 422, "a"},
		{`{"a":[["x\u0000"]]}`, 422, "a[0][0]"},
		{`{"\u0000":1}`, 400, "body"},
		{"{\"a\":\"\xff\"}", 400, "a"},
		{"{\"a\":{\"\xff\":1}}", 400, "a"},
		{"{\"a\":1}\xff", 400, "body"},
		{`{"a":1e999}`, 422, "a"},
		{strings.Repeat("[", 16) + strings.Repeat("]", 16), 0, ""},
		{strings.Repeat("[", 17) + strings.Repeat("]", 17), 400, strings.Repeat("[0]", 16)},
		{`{"` + strings.Repeat("é", 300) + `":"\u0000"}`, 422, strings.Repeat("é", 51) + "…"},
	} {
		if status, field := api.Inspect([]byte(tt.body)); status != tt.status || field != tt.field {
			t.Errorf("%.60q: %d %q, want %d %q", tt.body, status, field, tt.status, tt.field)
		}
	}
}

// A body that passes is JSON, and says one thing only.
func FuzzInspect(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":{"b":[1,"x"]},"a":2}`, "{\"a\":\"\xff\"}", `{"a":"\u0000"}`, `[[[[]]]]`, `{"a":1} x`, `1e999`, `{"":""}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		status, field := api.Inspect(body)
		switch {
		case status == 0 && (!json.Valid(body) || !utf8.Valid(body)):
			t.Fatalf("taken: %q", body)
		case status != 0 && (status != 400 && status != 422 || field == "" || len(field) > 120):
			t.Fatalf("%q: %d %q", body, status, field)
		case status != 0:
			return
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatalf("taken, and then %v: %q", err, body)
		}
		if keys(v) != bytes.Count(tokens(t, body), []byte("k")) {
			t.Fatalf("a key was given twice: %q", body)
		}
	})
}

func keys(v any) int {
	n := 0
	switch x := v.(type) {
	case object:
		for _, item := range x {
			n += 1 + keys(item)
		}
	case []any:
		for _, item := range x {
			n += keys(item)
		}
	}
	return n
}

// tokens writes k for every key of a body, by counting colons outside texts.
func tokens(t *testing.T, body []byte) []byte {
	t.Helper()
	var out []byte
	inText := false
	for i := 0; i < len(body); i++ {
		switch {
		case inText && body[i] == '\\':
			i++
		case body[i] == '"':
			inText = !inText
		case !inText && body[i] == ':':
			out = append(out, 'k')
		}
	}
	return out
}

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
		if status, field := api.Inspect([]byte(body)); status != 0 {
			t.Fatalf("the short way takes what the ordinary one refuses: %q: %d %s", body, status, field)
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
		status, _ := api.Inspect([]byte(body))
		if err := json.Unmarshal([]byte(body), &want); err != nil || status != 0 || !slices.Equal(have, want.Tokens) {
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
