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

func TestWhatIsNoLoginIsRefused(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "a\x00b", "\xff", strings.Repeat("a", 400)} {
		if _, err := auth.ReadLogin(s); errs.KindOf(err) != errs.Invalid {
			t.Errorf("ReadLogin(%q): %v", s, err)
		}
	}
}

// Whoever fails at one spelling of a name and then tries another sees whether both are counted together.
func TestSpellingsThatAreCountedTogetherDoNotTellWhoExists(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stillClock, func(o *option) { o.config.Rate.FreeAccount = 10_000 })
	w.register("mikko")
	network := byte(10)
	for _, again := range []string{
		"ikko", "IKKO", "ikko ", "i\u212ako", "\u0130kko", "\u0131kko", "ikk\u00ba", "\uff49kko", "i\u0301kko", "ikko\u200d",
	} {
		for _, domain := range []string{"", "@example.org"} {
			network++
			answers := map[string]bool{}
			for _, first := range []string{"m", "n"} { // somebody and nobody
				var err error
				for range 5 {
					_, err = w.Login(t.Context(), auth.Credentials{Login: first + "ikko" + domain, Password: "wrong"}, from(network))
					wantCode(t, err, errs.Unauthenticated, "invalid_credentials")
				}
				_, err = w.Login(t.Context(), auth.Credentials{Login: first + again + domain, Password: "wrong"}, from(network))
				answers[errs.CodeOf(err)] = true
			}
			if len(answers) != 1 {
				t.Errorf("%q%s tells who exists", again, domain)
			}
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
