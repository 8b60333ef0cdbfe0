package session_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rootstream/session"
)

func TestTokensHaveTheirForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var random [32]byte
		copy(random[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "random"))
		token := session.Format(random)
		body, ok := strings.CutPrefix(token, "sst_")
		if !ok || len(token) != 53 {
			t.Fatalf("token %q", token)
		}
		if got, err := base64.RawURLEncoding.DecodeString(body[:43]); err != nil || [32]byte(got) != random {
			t.Fatalf("token %q does not hold its bytes: %v", token, err)
		}
		hash, legacy, ok := session.Parse(token)
		if !ok || legacy || hash != sha256.Sum256([]byte(token)) {
			t.Fatalf("token %q: %x %t %t", token, hash, legacy, ok)
		}
		at := rapid.IntRange(0, len(token)-1).Draw(t, "at")
		other := rapid.ByteRange('!', '~').Draw(t, "other")
		if broken := token[:at] + string(other) + token[at+1:]; broken != token && session.WellFormed(broken) {
			t.Fatalf("%q passes for %q", broken, token)
		}
	})
}

func TestLegacyTokensAreBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, token string
		want        bool
	}{
		{"empty", "", false},
		{"one byte", "x", true},
		{"longest", strings.Repeat("x", 512), true},
		{"too long", strings.Repeat("x", 513), false},
		{"our prefix alone", "sst_", false},
		{"our prefix, wrong length", "sst_" + strings.Repeat("A", 48), false},
		{"our prefix, wrong checksum", "sst_" + strings.Repeat("A", 49), false},
		{"not UTF-8", "\xff\x00", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, legacy, ok := session.Parse(tt.token); ok != tt.want || ok && !legacy {
				t.Errorf("Parse(%q) = %t, legacy %t", tt.token, ok, legacy)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("sst_")
	f.Add(session.Format([32]byte{}))
	f.Add("h1:00")
	f.Fuzz(func(t *testing.T, token string) {
		hash, legacy, ok := session.Parse(token)
		switch {
		case ok && hash != sha256.Sum256([]byte(token)):
			t.Error("looked up by something else than its hash")
		case ok && legacy == strings.HasPrefix(token, "sst_"):
			t.Error("taken for the wrong kind")
		case ok && !legacy && len(token) != 53:
			t.Error("a token of ours has 53 characters")
		case !ok && hash != [32]byte{}:
			t.Error("a refused token has a hash")
		}
	})
}

// A stolen hash, or what stands in the column session_token, must not pass for a token.
func TestPitfall16HashIsNotAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	token, _ := w.login(m)
	legacy := "an old plain token"
	id, _ := w.user()
	w.exec(`insert into sessions (user_id, session_token, expires_at) values ($1, $2, now() + interval '1 hour')`, id, legacy)
	for _, real := range []string{token, legacy} {
		eventually(t, 5*time.Second, func() bool { return valid(m, real) }) // an old writer's first is looked for each second
		hash := hex.EncodeToString(sum(real))
		for _, fake := range []string{
			hash, "h1:" + hash, string(sum(real)), strings.ToUpper(hash), "\\x" + hash, "sst_" + hash,
			base64.RawURLEncoding.EncodeToString(sum(real)), session.Format([32]byte(sum(real))),
		} {
			if _, err := m.Validate(t.Context(), fake, session.ClientHint{}); !errors.Is(err, session.ErrInvalid) {
				t.Errorf("%q instead of %q: %v", fake, real, err)
			}
			if err := strong(m, fake); !errors.Is(err, session.ErrInvalid) {
				t.Errorf("%q instead of %q, read strongly: %v", fake, real, err)
			}
			if _, err := m.Refresh(t.Context(), fake); !errors.Is(err, session.ErrInvalid) {
				t.Errorf("refresh with %q: %v", fake, err)
			}
		}
	}
	var stored string
	if err := w.db.QueryRow(t.Context(), `select session_token from sessions where token_hash = $1`, sum(token)).Scan(&stored); err != nil {
		t.Fatal(err)
	}
	if stored != "h1:"+hex.EncodeToString(sum(token)) {
		t.Errorf("session_token is %q", stored)
	}
}
