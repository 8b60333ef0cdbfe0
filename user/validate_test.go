package user_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"rootstream/user"
)

func TestUsernamesAreCheckedByTheirForm(t *testing.T) {
	t.Parallel()
	for name, fine := range map[string]bool{
		"ada": true, "Ada.Love-lace_2": true, "0x": false, "0xy": true, strings.Repeat("a", 64): true,
		strings.Repeat("a", 65): false, "": false, "ab": false, ".ada": false, "-ada": false, "_ada": false, "ada lovelace": false,
		"ada@example.org": false, "äda": false, "ada\x00": false, "ada\n": false, "ada'; drop table users;--": false, "аda": false, // Cyrillic а
	} {
		if got := user.CheckUsername(name) == ""; got != fine {
			t.Errorf("CheckUsername(%q) fine = %v, want %v", name, got, fine)
		}
	}
}

func TestAddressesAreCheckedByTheirForm(t *testing.T) {
	t.Parallel()
	for email, fine := range map[string]bool{
		"ada@example.org": true, "Ada.Lovelace+stream@mail.Example.ORG": true, "a_%b-c@x.co": true,
		"": false, "ada": false, "@example.org": false, "ada@": false, "ada@example": false, "ada@example.c": false, "ada@example.123": false,
		".ada@example.org": false, "ada.@example.org": false, "a..b@example.org": false, "ada@-example.org": false, "ada@example-.org": false,
		"ada@example..org": false, "ada@.example.org": false, "a@b@example.org": false, "ada lovelace@example.org": false,
		"ada@exämple.org": false, "ada@example.org\n": false, "ada\x00@example.org": false, "<ada@example.org>": false,
		strings.Repeat("a", 64) + "@example.org": true, strings.Repeat("a", 65) + "@example.org": false,
		"a@" + strings.Repeat("b", 63) + ".org": true, "a@" + strings.Repeat("b", 64) + ".org": false,
		"a@" + strings.Repeat("b.", 126) + "org": false,
	} {
		if got := user.CheckEmail(email) == ""; got != fine {
			t.Errorf("CheckEmail(%q) fine = %v, want %v: %s", email, got, fine, user.CheckEmail(email))
		}
	}
}

func TestTheDomainOfAnAddressLosesItsCaseAndTheLocalPartDoesNot(t *testing.T) {
	t.Parallel()
	if got := user.NormalizeEmail("Ada.L@Mail.Example.ORG"); got != "Ada.L@mail.example.org" {
		t.Errorf("NormalizeEmail = %q", got)
	}
	if got := user.NormalizeEmail("Nonsense"); got != "Nonsense" {
		t.Errorf("NormalizeEmail without @ = %q", got)
	}
}

func TestDisplayNamesHoldWhatCanBeShown(t *testing.T) {
	t.Parallel()
	for name, fine := range map[string]bool{
		"": true, "Ada Lovelace": true, "Åsa Ünïcøde": true, "李小龍": true, "👩\u200d💻 live": true, "می\u200cخواهم": true, strings.Repeat("é", 100): true,
		strings.Repeat("é", 101): false, "a\x00b": false, "a\nb": false, "a\tb": false, "a\u202eb": false, "a\u2066b": false, "a\u200fb": false,
		"a\ufeffb": false, "a\u2028b": false, "a\xffb": false, "a\ufffdb": false, "a\u007fb": false, "a\ue000b": false,
	} {
		if got := user.CheckDisplayName(user.NormalizeDisplayName(name)) == ""; got != fine {
			t.Errorf("CheckDisplayName(%q) fine = %v, want %v", name, got, fine)
		}
	}
	if got := user.NormalizeDisplayName("\u3000 A\u030asa\u00a0U "); got != "Åsa U" {
		t.Errorf("NormalizeDisplayName = %q", got)
	}
}

func TestAvatarsAreWebAddresses(t *testing.T) {
	t.Parallel()
	for raw, fine := range map[string]bool{
		"": true, "https://example.org/a.png": true, "http://[::1]:8080/a?b=c#d": true, "https://example.org/" + strings.Repeat("a", 492): true,
		"https://example.org/" + strings.Repeat("a", 493): false, "javascript:alert(1)": false, "data:image/png;base64,AA": false,
		"//example.org/a.png": false, "/a.png": false, "https://": false, "https://:80/": false, "https://ada:secret@example.org/": false,
		"ftp://example.org/a": false, "https://example.org/ä": false, "https://example.org/a b": false, "https://example.org/\x00": false,
		"https://[::1/": false, "https://example.org/%zz": false,
	} {
		if got := user.CheckAvatarURL(raw) == ""; got != fine {
			t.Errorf("CheckAvatarURL(%q) fine = %v, want %v", raw, got, fine)
		}
	}
}

func FuzzCheckEmail(f *testing.F) {
	for _, s := range []string{"ada@example.org", "a@b.co", "a@@b.co", "A@B..CO", "", "@", "a@-b.org"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fine := user.CheckEmail(s) == ""
		n := user.NormalizeEmail(s)
		if fine != (user.CheckEmail(n) == "") {
			t.Errorf("normalising %q changed whether it is an address", s)
		}
		if n != user.NormalizeEmail(n) {
			t.Errorf("NormalizeEmail(%q) is not stable", s)
		}
		if fine && (strings.Count(s, "@") != 1 || len(s) > 254 || strings.ContainsAny(s, " \x00\r\n<>\"',;:")) {
			t.Errorf("CheckEmail took %q", s)
		}
	})
}

func FuzzCheckUsername(f *testing.F) {
	for _, s := range []string{"ada", "a.b", "", "ada@x", "ａda", "ada\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if user.CheckUsername(s) != "" {
			return
		}
		if len(s) < 3 || len(s) > 64 || strings.ContainsAny(s, "@/ \x00\n") || !utf8.ValidString(s) {
			t.Errorf("CheckUsername took %q", s)
		}
	})
}

func FuzzDisplayName(f *testing.F) {
	for _, s := range []string{"Ada", "A\u030asa", " x ", "a\u202eb", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := user.NormalizeDisplayName(s)
		if n != user.NormalizeDisplayName(n) {
			t.Errorf("NormalizeDisplayName(%q) is not stable", s)
		}
		if user.CheckDisplayName(n) == "" && (!utf8.ValidString(n) || strings.ContainsAny(n, "\x00\n\u202e") || len(n) > 400) {
			t.Errorf("CheckDisplayName took %q", n)
		}
	})
}
