package mfa_test

import (
	"encoding/xml"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rootstream/mfa"
)

const testSecret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"

// scan reads a QR code as a phone does.
func scan(t *testing.T, svg string) string {
	t.Helper()
	for _, name := range []string{"rsvg-convert", "zbarimg"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%s is missing: apt-get install librsvg2-bin zbar-tools", name)
		}
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "qr.svg"), filepath.Join(dir, "qr.png")
	if err := os.WriteFile(in, []byte(svg), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := exec.CommandContext(t.Context(), "rsvg-convert", "--width", "600", "--output", out, in).CombinedOutput(); err != nil {
		t.Fatalf("rsvg-convert: %v: %s", err, b)
	}
	b, err := exec.CommandContext(t.Context(), "zbarimg", "--raw", "--quiet", "-Sdisable", "-Sqrcode.enable", out).Output()
	if err != nil {
		t.Fatalf("zbarimg reads nothing: %v", err)
	}
	return strings.TrimSuffix(string(b), "\n")
}

func TestQRCodeIsReadBackByAScanner(t *testing.T) {
	t.Parallel()
	for name, label := range map[string]string{
		"e-mail":    "ada@example.org",
		"unicode":   "Ада Лавлейс 😀",
		"separator": "a:b/c?d=e&f#g%h+i j",
		"longest":   strings.Repeat("ж", 300),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			uri := mfa.OtpauthURI("Root & Stream: live", label, testSecret)
			svg, err := mfa.QRSVG(uri)
			if err != nil {
				t.Fatal(err)
			}
			if got := scan(t, svg); got != uri {
				t.Errorf("the scanner reads\n%s, want\n%s", got, uri)
			}
		})
	}
}

func TestQRCodeIsOnePathAndLoadsNothing(t *testing.T) {
	t.Parallel()
	svg, err := mfa.QRSVG(mfa.OtpauthURI("RootStream", "ada", testSecret))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		tok, err := d.Token()
		if err != nil {
			break
		}
		el, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		counts[el.Name.Local]++
		for _, a := range el.Attr {
			if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "href" || a.Name.Local == "style" || strings.Contains(a.Value, "url(") {
				t.Errorf("<%s %s=%q> could run or load something", el.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if len(counts) != 3 || counts["svg"] != 1 || counts["rect"] != 1 || counts["path"] != 1 {
		t.Errorf("elements = %v, want one svg, rect and path", counts)
	}
	if strings.Contains(svg, testSecret) {
		t.Error("the secret stands in the picture as text")
	}
}

func TestQRCodeRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	if _, err := mfa.QRSVG(strings.Repeat("x", 5000)); err == nil {
		t.Error("5000 characters were drawn")
	}
}

func TestOtpauthURIIsWhatAppsParse(t *testing.T) {
	t.Parallel()
	uri := mfa.OtpauthURI("Acme: TV", "ada lovelace@example.org", testSecret)
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	if u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/Acme: TV:ada lovelace@example.org" {
		t.Errorf("scheme %q, host %q, path %q", u.Scheme, u.Host, u.Path)
	}
	if strings.Contains(uri, "+") || strings.Count(uri, ":") != 2 {
		t.Errorf("%s: a space must be %%20 and only the scheme and the label have a bare colon", uri)
	}
	q := u.Query()
	for key, want := range map[string]string{
		"secret": testSecret, "issuer": "Acme: TV", "algorithm": "SHA1", "digits": "6", "period": "30",
	} {
		if q.Get(key) != want {
			t.Errorf("%s = %q, want %q", key, q.Get(key), want)
		}
	}
}
