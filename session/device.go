package session

import (
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"rootstream/errs"
)

// Longest values on record, in characters.
const (
	maxDeviceID   = 255
	maxDeviceName = 100
	maxUserAgent  = 512
	maxLocation   = 100
)

// Device is what a session remembers of where it was made. Only ID and the
// fingerprint are ever compared; address and place are signals for people.
type Device struct {
	ID          string     `json:"id,omitempty"`          // issued by the server, kept by the client
	Name        string     `json:"name,omitempty"`        // what the owner calls it; at most 100 characters
	Fingerprint string     `json:"fingerprint,omitempty"` // family/system/class; made of UserAgent when empty
	UserAgent   string     `json:"user_agent,omitempty"`  // cut at 512 characters
	IP          netip.Addr `json:"ip,omitzero"`
	Location    string     `json:"location,omitempty"` // looked up from IP when empty
}

// Kind says in a few words for people what sort of device it is, by its fingerprint: firefox on linux, desktop. It is
// empty where that is not known.
func (d Device) Kind() string {
	parts := strings.Split(d.Fingerprint, "/")
	if len(parts) != 3 || parts[0] == unknownPart {
		return ""
	}
	return parts[0] + " on " + parts[1] + ", " + parts[2]
}

// ClientHint is what a validation knows of the client. The zero value compares nothing.
type ClientHint struct {
	DeviceID  string
	UserAgent string
	IP        netip.Addr
	Strong    bool // read PostgreSQL, no cache
	Quiet     bool // nobody did anything: this does not keep an idle session alive
}

// completed checks what the client chose and bounds and fills in the rest.
func (d Device) completed(locate func(netip.Addr) string) (Device, error) {
	var f errs.Fields
	checkName(&f, "device_name", d.Name)
	if utf8.RuneCountInString(d.ID) > maxDeviceID || !printable(d.ID) {
		f.Add("device_id", "must be at most 255 printable characters")
	}
	d.IP = d.IP.Unmap().WithZone("")
	d.UserAgent = bounded(d.UserAgent, maxUserAgent)
	if d.Fingerprint == "" && d.UserAgent != "" {
		d.Fingerprint = ParseUserAgent(d.UserAgent).String()
	}
	d.Fingerprint = bounded(d.Fingerprint, maxDeviceID)
	if d.Location == "" && locate != nil && d.IP.IsValid() {
		d.Location = locate(d.IP)
	}
	d.Location = bounded(d.Location, maxLocation)
	return d, f.Err()
}

func checkName(f *errs.Fields, field, name string) {
	if utf8.RuneCountInString(name) > maxDeviceName {
		f.Add(field, "must be at most 100 characters")
	} else if !printable(name) {
		f.Add(field, "must be printable text")
	}
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// bounded makes s fit for a text column: valid UTF-8, no control characters, at most n characters.
func bounded(s string, n int) string {
	if len(s) > n*utf8.UTFMax {
		s = s[:n*utf8.UTFMax]
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// match compares what is given with what is on record. It allocates nothing.
func (v *View) match(h *ClientHint) DeviceMatch {
	answer := DeviceUnknown
	if h.DeviceID != "" && v.DeviceHash != 0 {
		if hash64(h.DeviceID) != v.DeviceHash {
			return DeviceChanged
		}
		answer = DeviceSame
	}
	if h.UserAgent != "" && v.PrintHash != 0 {
		if ParseUserAgent(h.UserAgent).hash() != v.PrintHash {
			return DeviceChanged
		}
		answer = DeviceSame
	}
	return answer
}

const unknownPart = "other" // of a fingerprint

// UserAgent is the coarse part of a User-Agent header: what stays the same over updates.
type UserAgent struct {
	Family string // chrome, safari, obs …; other
	System string // windows, ios …; other
	Class  string // desktop, phone, tablet, tv, console, program
}

// String is family/system/class.
func (u UserAgent) String() string { return u.Family + "/" + u.System + "/" + u.Class }

func (u UserAgent) hash() uint64 {
	return fnv(fnv(fnv(fnv(fnv(fnvStart, u.Family), "/"), u.System), "/"), u.Class)
}

type uaMark struct{ has, means string }

// The first mark found decides, so those that others also carry come last.
var (
	familyMarks = [...]uaMark{ //nolint:gochecknoglobals // a constant table
		{"obs-studio", "obs"},
		{"OBS/", "obs"},
		{"Edg", "edge"},
		{"OPR/", "opera"},
		{"Opera", "opera"},
		{"SamsungBrowser/", "samsung"},
		{"Vivaldi/", "vivaldi"},
		{"YaBrowser/", "yandex"},
		{"Firefox/", "firefox"},
		{"FxiOS/", "firefox"},
		{"CriOS/", "chrome"},
		{"Electron/", "electron"},
		{"CrKey/", "chromecast"},
		{"Chrome/", "chrome"},
		{"Chromium/", "chrome"},
		{"Safari/", "safari"},
		{"AppleWebKit/", "webkit"},
		{"okhttp/", "okhttp"},
		{"CFNetwork/", "cfnetwork"},
		{"Dart/", "dart"},
		{"curl/", "curl"},
		{"Wget/", "wget"},
		{"Go-http-client/", "go"},
		{"python", "python"},
		{"Python", "python"},
		{"node", "node"},
		{"Java/", "java"},
	}
	systemMarks = [...]uaMark{ //nolint:gochecknoglobals // a constant table
		{"Xbox", "xbox"},
		{"PlayStation", "playstation"},
		{"Nintendo", "nintendo"},
		{"Windows", "windows"},
		{"iPhone", "ios"},
		{"iPad", "ios"},
		{"iPod", "ios"},
		{"Apple TV", "tvos"},
		{"AppleTV", "tvos"},
		{"Tizen", "tizen"},
		{"Web0S", "webos"},
		{"webOS", "webos"},
		{"Roku", "roku"},
		{"Android", "android"},
		{"CrOS", "chromeos"},
		{"Mac OS X", "macos"},
		{"Macintosh", "macos"},
		{"Darwin", "macos"},
		{"Linux", "linux"},
		{"BSD", "bsd"},
	}
	classMarks = [...]uaMark{ //nolint:gochecknoglobals // a constant table
		{"Xbox", "console"},
		{"PlayStation", "console"},
		{"Nintendo", "console"},
		{"Apple TV", "tv"},
		{"AppleTV", "tv"},
		{"SMART-TV", "tv"},
		{"SmartTV", "tv"},
		{"Smart TV", "tv"},
		{"Web0S", "tv"},
		{"CrKey", "tv"},
		{"Roku", "tv"},
		{"BRAVIA", "tv"},
		{"AFT", "tv"},
		{"iPad", "tablet"},
		{"Tablet", "tablet"},
		{"iPhone", "phone"},
		{"iPod", "phone"},
		{"Mobile", "phone"},
		{"Android", "tablet"},
		{"Windows", "desktop"},
		{"Macintosh", "desktop"},
		{"X11", "desktop"},
		{"CrOS", "desktop"},
		{"Linux", "desktop"},
	}
)

// ParseUserAgent finds the coarse parts. Any input has an answer.
func ParseUserAgent(header string) UserAgent {
	if len(header) > maxUserAgent {
		header = header[:maxUserAgent]
	}
	return UserAgent{
		Family: firstMark(header, familyMarks[:], unknownPart),
		System: firstMark(header, systemMarks[:], unknownPart),
		Class:  firstMark(header, classMarks[:], "program"),
	}
}

func firstMark(s string, marks []uaMark, otherwise string) string {
	for _, m := range marks {
		if strings.Contains(s, m.has) {
			return m.means
		}
	}
	return otherwise
}

const fnvStart uint64 = 14695981039346656037

func fnv(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// hash64 tells strings apart that are not chosen to collide; 0 is the empty string alone.
func hash64(s string) uint64 {
	if s == "" {
		return 0
	}
	return max(fnv(fnvStart, s), 1)
}
