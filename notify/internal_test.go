package notify

import (
	"net/netip"
	"testing"
	"time"
)

func TestPausesGrowForAboutADay(t *testing.T) {
	t.Parallel()
	const first = 10 * time.Second
	var total, before time.Duration
	for try := 1; try < 22; try++ {
		d := pause(try, first, 0)
		if d < first*8/10 || d > maxPause*12/10 {
			t.Errorf("after try %d: %s", try, d)
		}
		if try <= 9 && d*10 < before*13 { // 1.2/0.8 of jitter at most, against a doubling
			t.Errorf("after try %d: %s, no more than before (%s)", try, d, before)
		}
		before = d
		total += d
	}
	if total < 18*time.Hour || total > 30*time.Hour {
		t.Errorf("all pauses make %s", total)
	}
	if d := pause(1, first, time.Hour); d != time.Hour {
		t.Errorf("asked for an hour: %s", d)
	}
	if d := pause(1, first, 1000*time.Hour); d != maxRetryAfter {
		t.Errorf("asked for too much: %s", d)
	}
}

func TestPublicAddressesAreToldFromTheRest(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"93.184.216.34", "8.8.8.8", "2606:4700::1111"} {
		if !isPublic(netip.MustParseAddr(s)) {
			t.Errorf("%s is public", s)
		}
	}
	for _, s := range []string{
		"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0.1.2.3",
		"224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
		"64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "192.0.2.1", "::7f00:1", "2001:0:7f00:1::", "fec0::1", "192.88.99.1",
	} {
		if isPublic(netip.MustParseAddr(s)) {
			t.Errorf("%s is not public", s)
		}
	}
	if publicOnly("tcp", "[::ffff:127.0.0.1]:80", nil) == nil || publicOnly("tcp", "nonsense", nil) == nil {
		t.Error("an address was let through")
	}
}

func FuzzOneLine(f *testing.F) {
	for _, s := range []string{"", "plain", "a\r\nBcc: b@example.org", "\u2028\u202e\x00\xff", "  spaces  "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s, 50)
		for _, r := range got {
			if r < ' ' || r == '\u2028' || r == '\u2029' || r == '\u202e' || r == 0x85 {
				t.Errorf("%q became %q", s, got)
			}
		}
		if n := len([]rune(got)); n > 51 {
			t.Errorf("%d characters", n)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a@example.org", "Ada <a@example.org>", "a@example.org\r\nBcc: x", `"a b"@example.org`, "<", "@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil {
			return
		}
		if d := domain(a); d == "" {
			t.Errorf("%q has no domain", s)
		}
		for _, c := range []byte(a.Address) {
			if c == '\r' || c == '\n' || c == 0 {
				t.Errorf("%q gives %q", s, a.Address)
			}
		}
	})
}
