package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"rootstream/secret"
)

const canary = "canary-4f1d8a7c-do-not-print-me"

// holder is what a careless program prints: secrets at every depth.
type holder struct {
	Open   secret.Secret
	hidden secret.Secret
	Deep   *holder
	List   []secret.Secret
	Map    map[string]secret.Secret
	Any    any
}

func careless() holder {
	s := secret.FromString(canary)
	in := &holder{Open: s, hidden: s}
	return holder{Open: s, hidden: s, Deep: in, List: []secret.Secret{s}, Map: map[string]secret.Secret{"k": s}, Any: s}
}

// leaks finds the canary as text and in the ways bytes are commonly printed.
func leaks(out string) bool {
	forms := []string{
		canary, hex.EncodeToString([]byte(canary)), strings.ToUpper(hex.EncodeToString([]byte(canary))),
		base64.StdEncoding.EncodeToString([]byte(canary)), base64.RawURLEncoding.EncodeToString([]byte(canary)),
		strings.Trim(fmt.Sprintf("%d", []byte(canary)), "[]"),
		strings.Trim(strings.ReplaceAll(fmt.Sprintf("%#v", []byte(canary)), "[]byte", ""), "{}"),
	}
	for _, f := range forms {
		if strings.Contains(out, f) {
			return true
		}
	}
	return false
}

func TestSecretNeverShowsInFormattedOutput(t *testing.T) {
	t.Parallel()
	s := secret.FromString(canary)
	h := careless()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%e", "%g", "%t", "%p", "%T", "%10v", "%w"} {
		for _, arg := range []any{s, &s, h, &h, []any{s, h}, map[string]any{"a": h}, fmt.Errorf("wrapped: %v", s)} {
			if out := fmt.Sprintf(verb, arg); leaks(out) {
				t.Errorf("%s of %T leaks: %s", verb, arg, out)
			}
		}
	}
	if got := fmt.Sprintf("%s", s); got != "[redacted]" {
		t.Errorf("printed as %q", got)
	}
	if got := fmt.Errorf("dial with %v: %w", s, errors.New("x")).Error(); got != "dial with [redacted]: x" {
		t.Errorf("in an error: %q", got)
	}
}

func TestSecretNeverShowsInLogsAndEncodings(t *testing.T) {
	t.Parallel()
	s := secret.FromString(canary)
	h := careless()
	var out bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		l := slog.New(handler)
		l.InfoContext(t.Context(), "plain", "secret", s, "pointer", &s)
		l.With("with", s).InfoContext(t.Context(), "nested", "holder", h, "group", slog.GroupValue(slog.Any("s", s)))
	}
	j, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	y, err := yaml.Marshal(struct{ Password secret.Secret }{s})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(y)
	if leaks(out.String()) {
		t.Errorf("leaks: %s", out.String())
	}
	if !strings.Contains(string(y), "[redacted]") {
		t.Errorf("yaml: %s", y)
	}
}

func TestSecretIsReadFromConfigurationAndGivenOutOnPurpose(t *testing.T) {
	t.Parallel()
	var cfg struct{ Password secret.Secret }
	if err := yaml.Unmarshal([]byte("password: hunter22"), &cfg); err != nil || cfg.Password.Reveal() != "hunter22" {
		t.Fatalf("yaml: %q, %v", cfg.Password.Reveal(), err)
	}
	if err := json.Unmarshal([]byte(`{"Password":"hunter23"}`), &cfg); err != nil || cfg.Password.Reveal() != "hunter23" {
		t.Fatalf("json: %q, %v", cfg.Password.Reveal(), err)
	}
	if err := json.Unmarshal([]byte(`{"Password":"[redacted]"}`), &cfg); !errors.Is(err, secret.ErrPrinted) {
		t.Errorf("the placeholder was read back: %v", err)
	}
	b := cfg.Password.Bytes()
	b[0] = 'X'
	if cfg.Password.Reveal() != "hunter23" {
		t.Error("Bytes gave out the secret itself, not a copy")
	}
	if !cfg.Password.Equal(secret.FromString("hunter23")) || cfg.Password.Equal(secret.FromString("hunter2")) {
		t.Error("Equal is wrong")
	}
	if !(secret.Secret{}).IsZero() || cfg.Password.IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestSecretRefusesToBecomeAnSQLParameter(t *testing.T) {
	t.Parallel()
	if v, err := secret.FromString(canary).Value(); v != nil || !errors.Is(err, secret.ErrStored) {
		t.Errorf("Value = %v, %v", v, err)
	}
}

func ExampleSecret() {
	password := secret.FromString("correct horse battery staple")
	fmt.Printf("%v %#v %s\n", password, password, fmt.Sprint([]secret.Secret{password}))
	fmt.Println(len(password.Reveal()))
	// Output:
	// [redacted] [redacted] [[redacted]]
	// 28
}
