package auth_test

import (
	"net/netip"
	"strings"
	"testing"

	"rootstream/auth"
	"rootstream/errs"
)

func TestNetworkIsTheBlockAClientCanMoveIn(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.77":                 "192.0.2.0/24",
		"::ffff:192.0.2.77":          "192.0.2.0/24",
		"2001:db8:1:2:3:4:5:6":       "2001:db8:1:2::/64",
		"fe80::1%eth0":               "fe80::/64",
		"2001:db8:1:2:ffff:ffff::%x": "2001:db8:1:2::/64",
	} {
		if got := auth.Network(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Network(%s) = %s, want %s", addr, got, want)
		}
	}
	if got := auth.Network(netip.Addr{}); got != "unknown" {
		t.Errorf("without an address: %s", got)
	}
}

func TestLoginKeyIsOneForAllSpellings(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"Ada", " ada", "ADA ", "\uff21da"} {
		if got, err := auth.LoginKey(s); err != nil || got != "ada" {
			t.Errorf("LoginKey(%q) = %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "a\x00b", "\xff", strings.Repeat("a", 400)} {
		if _, err := auth.LoginKey(s); errs.KindOf(err) != errs.Invalid {
			t.Errorf("LoginKey(%q): %v", s, err)
		}
	}
}

func FuzzChallengeID(f *testing.F) {
	f.Add(auth.NewChallengeID())
	f.Add("sch_")
	f.Add("sst_AAAA")
	f.Fuzz(func(t *testing.T, id string) {
		if auth.ChallengeHash(id) && (len(id) != len("sch_")+43 || !strings.HasPrefix(id, "sch_")) {
			t.Errorf("%q is taken for a challenge", id)
		}
	})
}
