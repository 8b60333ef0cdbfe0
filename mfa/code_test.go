package mfa_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"rootstream/errs"
	"rootstream/mfa"
)

func TestBackupCodeHasFiftyBitsInTwoGroups(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{5}-[0-9A-HJKMNP-TV-Z]{5}$`)
	seen := map[string]bool{}
	for range 2000 {
		code := mfa.NewBackupCode()
		if !form.MatchString(code) {
			t.Fatalf("code %q", code)
		}
		if seen[code] {
			t.Fatalf("code %q came twice", code)
		}
		seen[code] = true
	}
}

func TestPitfall14BackupCodesHaveNoModuloBias(t *testing.T) {
	t.Parallel()
	counts := map[rune]int{}
	const draws = 20000
	for range draws {
		for _, r := range strings.ReplaceAll(mfa.NewBackupCode(), "-", "") {
			counts[r]++
		}
	}
	if len(counts) != 32 {
		t.Fatalf("%d letters are used, want 32", len(counts))
	}
	chi := 0.0
	want := float64(draws) * 10 / 32
	for _, n := range counts {
		d := float64(n) - want
		chi += d * d / want
	}
	if chi > 90 { // 31 degrees of freedom: one run in ten million is above
		t.Errorf("chi squared = %.1f", chi)
	}
}

func TestBackupCodeIsReadAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"4F7KQ-9XW2C":     "4F7KQ9XW2C",
		"4f7kq9xw2c":      "4F7KQ9XW2C",
		" 4f7kq 9xw2c ":   "4F7KQ9XW2C",
		"4-F-7-K-Q9XW2C":  "4F7KQ9XW2C",
		"OoIiLl-00111":    "00111100111"[:10],
		"ooooo-lllll":     "0000011111",
		"O0iL1-abcde":     "00111ABCDE",
		"":                "",
		"4F7KQ-9XW2":      "",
		"4F7KQ-9XW2CX":    "",
		"4F7KU-9XW2C":     "",
		"4F7KQ_9XW2C":     "",
		"4F7KQ-9XW2\x00":  "",
		"4F7KQ-9XW2\xff":  "",
		"４F7KQ-9XW2C":     "",
		"' OR 1=1; -- aa": "",
	} {
		got, err := mfa.NormalBackupCode(in)
		if in == "OoIiLl-00111" { // eleven characters
			want = ""
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q read as %q, %v; want %q", in, got, err, want)
		}
		if err != nil && (errs.KindOf(err) != errs.Invalid || errs.FieldsOf(err)[0].Field != "code") {
			t.Errorf("%q: %v does not name the field", in, err)
		}
	}
}

func TestTOTPCodeIsReadAsAppsShowIt(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"287082": "287082", "287 082": "287082", "287-082": "287082", " 000000 ": "000000",
		"": "", "28708": "", "2870822": "", "28708a": "", "２８７０８２": "", "-28708": "", "28708\x00": "", "+28708": "",
	} {
		got, err := mfa.NormalTOTP(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q read as %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestHowABackupCodeIsWrittenDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		code := mfa.NewBackupCode()
		var b strings.Builder
		for _, r := range code {
			s := string(r)
			if rapid.Bool().Draw(t, "lower") {
				s = strings.ToLower(s)
			}
			switch r {
			case '0':
				s = rapid.SampledFrom([]string{"0", "o", "O"}).Draw(t, "zero")
			case '1':
				s = rapid.SampledFrom([]string{"1", "i", "I", "l", "L"}).Draw(t, "one")
			}
			b.WriteString(s + rapid.SampledFrom([]string{"", " ", "-"}).Draw(t, "gap"))
		}
		got, err := mfa.NormalBackupCode(b.String())
		if want := strings.ReplaceAll(code, "-", ""); err != nil || got != want {
			t.Fatalf("%q read as %q, %v; want %q", b.String(), got, err, want)
		}
	})
}

func FuzzCodes(f *testing.F) {
	f.Add("4F7KQ-9XW2C")
	f.Add("287 082")
	f.Add("ſKſKſ-KKKKK")
	backup := regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{10}$`)
	totp := regexp.MustCompile(`^[0-9]{6}$`)
	f.Fuzz(func(t *testing.T, s string) {
		if code, err := mfa.NormalBackupCode(s); err == nil {
			if !backup.MatchString(code) {
				t.Errorf("%q read as backup code %q", s, code)
			}
			if again, err := mfa.NormalBackupCode(code); err != nil || again != code {
				t.Errorf("%q read again as %q, %v", code, again, err)
			}
		}
		if code, err := mfa.NormalTOTP(s); err == nil && !totp.MatchString(code) {
			t.Errorf("%q read as TOTP code %q", s, code)
		}
		_ = mfa.ReadCursor(s)
	})
}
