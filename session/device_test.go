package session_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"rootstream/errs"
	"rootstream/session"
)

const (
	chromeWindows = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
	chromeNewer   = "Mozilla/5.0 (Windows NT 11.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"
	safariPhone   = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)

func TestUserAgentsAreReadCoarsely(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ header, want string }{
		{chromeWindows, "chrome/windows/desktop"},
		{chromeNewer, "chrome/windows/desktop"},
		{safariPhone, "safari/ios/phone"},
		{"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15", "safari/macos/desktop"},
		{"Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0", "firefox/linux/desktop"},
		{"Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36", "chrome/android/phone"},
		{"Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/24.0 Chrome/117.0.0.0 Safari/537.36", "samsung/android/tablet"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0", "edge/windows/desktop"},
		{"Mozilla/5.0 (PlayStation; PlayStation 5/8.00) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.4 Safari/605.1.15", "safari/playstation/console"},
		{"Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0.4606.128 Safari/537.36", "chrome/webos/tv"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/103.0.5060.134 Safari/537.36 OBS/30.1.2", "obs/windows/desktop"},
		{"curl/8.5.0", "curl/other/program"},
		{"okhttp/4.12.0", "okhttp/other/program"},
		{"", "other/other/program"},
	} {
		if got := session.ParseUserAgent(tt.header).String(); got != tt.want {
			t.Errorf("%q is %s, want %s", tt.header, got, tt.want)
		}
	}
}

func TestTheKindOfADeviceIsForPeopleToRead(t *testing.T) {
	t.Parallel()
	for print, want := range map[string]string{
		session.ParseUserAgent(safariPhone).String():      "safari on ios, phone",
		session.ParseUserAgent("curl/8.5.0").String():     "curl on other, program",
		session.ParseUserAgent("never heard of").String(): "",
		"0badc0de": "", // of Phase 24.2
		"":         "",
	} {
		if got := (session.Device{Fingerprint: print}).Kind(); got != want {
			t.Errorf("%q is %q, want %q", print, got, want)
		}
	}
}

func TestADeviceIsKnownToTheAccountThatUsedIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	one, _ := w.user()
	other, _ := w.user()
	_, s := w.loginAs(m, session.New{UserID: one, Device: session.Device{ID: "tablet"}})
	w.revoke(m, s)
	for _, tt := range []struct {
		owner  int64
		device string
		want   bool
	}{
		{one, "tablet", true}, // a session that has ended, too
		{other, "tablet", false},
		{one, "phone", false},
		{one, "", false},
		{one, "tablet\x00", false},
		{one, "\xff", false},
		{one, strings.Repeat("x", 256), false},
		{0, "tablet", false},
	} {
		if known, err := m.KnowsDevice(t.Context(), tt.owner, tt.device); err != nil || known != tt.want {
			t.Errorf("device %q of %d: known %v, %v", tt.device, tt.owner, known, err)
		}
	}
}

func FuzzParseUserAgent(f *testing.F) {
	f.Add(chromeWindows)
	f.Add(safariPhone)
	f.Add(strings.Repeat("Mozilla/", 1000))
	f.Fuzz(func(t *testing.T, header string) {
		got := session.ParseUserAgent(header)
		if got != session.ParseUserAgent(header) || got.Family == "" || got.System == "" || got.Class == "" {
			t.Errorf("%+v", got)
		}
		if s := got.String(); len(s) > 255 || !utf8.ValidString(s) {
			t.Errorf("fingerprint %q", s)
		}
	})
}

// A new address, a new browser version or a moved client never ends a session; a new kind of device is told.
func TestPitfall26FingerprintIsCoarseAndNeverKills(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance()
	id, _ := w.user()
	token, s := w.loginAs(m, session.New{UserID: id, Device: session.Device{
		ID: "device-1", UserAgent: chromeWindows, IP: netip.MustParseAddr("203.0.113.7"),
	}})
	if s.Device.Fingerprint != "chrome/windows/desktop" {
		t.Errorf("fingerprint %q", s.Device.Fingerprint)
	}
	for _, tt := range []struct {
		name string
		hint session.ClientHint
		want session.DeviceMatch
	}{
		{"nothing to compare", session.ClientHint{}, session.DeviceUnknown},
		{"same", session.ClientHint{DeviceID: "device-1", UserAgent: chromeWindows}, session.DeviceSame},
		{"new address", session.ClientHint{UserAgent: chromeWindows, IP: netip.MustParseAddr("2001:db8::1")}, session.DeviceSame},
		{"browser updated", session.ClientHint{DeviceID: "device-1", UserAgent: chromeNewer}, session.DeviceSame},
		{"other browser", session.ClientHint{DeviceID: "device-1", UserAgent: safariPhone}, session.DeviceChanged},
		{"other device", session.ClientHint{DeviceID: "device-2", UserAgent: chromeWindows}, session.DeviceChanged},
		{"no user agent", session.ClientHint{DeviceID: "device-1"}, session.DeviceSame},
		{"strong", session.ClientHint{DeviceID: "device-2", Strong: true}, session.DeviceChanged},
	} {
		v, err := m.Validate(t.Context(), token, tt.hint)
		if err != nil || v.Device != tt.want {
			t.Errorf("%s: %v, %v", tt.name, v.Device, err)
		}
	}
	if session.DeviceChanged.String() != "changed" || session.DeviceSame.String() != "match" {
		t.Error("the answers have other names")
	}
}

func TestDevicesAreBoundedAndClean(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	m := w.instance(func(c *session.Config) {
		c.Locate = func(netip.Addr) string { return strings.Repeat("ü", 300) + "\x00" }
	})
	id, _ := w.user()
	_, s := w.loginAs(m, session.New{UserID: id, Device: session.Device{
		UserAgent: "a\x00b\xff" + strings.Repeat("é", 2000), IP: netip.MustParseAddr("::ffff:192.0.2.1"), Name: "Größe 1; DROP TABLE",
	}})
	list, err := m.List(t.Context(), id)
	if err != nil || len(list) != 1 {
		t.Fatalf("%v %v", list, err)
	}
	d := list[0].Device
	if d != s.Device {
		t.Errorf("listed %+v, created %+v", d, s.Device)
	}
	if utf8.RuneCountInString(d.UserAgent) != 512 || !strings.HasPrefix(d.UserAgent, "abé") ||
		utf8.RuneCountInString(d.Location) != 100 || d.IP.String() != "192.0.2.1" || d.Name != "Größe 1; DROP TABLE" {
		t.Errorf("device %+v", d)
	}
	for _, bad := range []session.Device{
		{Name: strings.Repeat("x", 101)},
		{Name: "a\x00b"},
		{Name: "\xff"},
		{Name: "line\nbreak"},
		{ID: strings.Repeat("x", 256)},
		{ID: "\x00"},
	} {
		_, err := create(w.db, m, session.New{UserID: id, Device: bad})
		if errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) != 1 {
			t.Errorf("device %+q: %v", bad, err)
		}
	}
}

func TestPlacesComeFromAnOperatorsFile(t *testing.T) {
	t.Parallel()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "GeoLite2-City", RecordSize: 24})
	if err != nil {
		t.Fatal(err)
	}
	place := func(city, country string) mmdbtype.Map {
		m := mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(country)}}
		if city != "" {
			m["city"] = mmdbtype.Map{"names": mmdbtype.Map{"en": mmdbtype.String(city)}}
		}
		return m
	}
	for network, record := range map[string]mmdbtype.DataType{
		"81.2.69.0/24": place("Lisbon", "PT"), "2a02:c7f::/32": place("", "GB"), "81.2.70.0/24": mmdbtype.String("not a place"),
	} {
		_, n, _ := net.ParseCIDR(network)
		if err = tree.Insert(n, record); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "city.mmdb")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = tree.WriteTo(out); err != nil {
		t.Fatal(err)
	}
	if err = out.Close(); err != nil {
		t.Fatal(err)
	}
	geo, err := session.OpenGeo(file)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"81.2.69.142": "Lisbon, PT", "::ffff:81.2.69.1": "Lisbon, PT", "2a02:c7f::1": "GB", "81.2.70.1": "", "9.9.9.9": "",
	} {
		if got := geo.Locate(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is in %q, want %q", addr, got, want)
		}
	}
	if geo.Locate(netip.Addr{}) != "" {
		t.Error("no address has no place")
	}
	if err := geo.Close(); err != nil {
		t.Error(err)
	}
	if _, err := session.OpenGeo(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file was opened")
	}
}
