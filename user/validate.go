package user

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"rootstream/errs"
)

const (
	maxEmail       = 254 // RFC 5321, 4.5.3.1.3 without the brackets
	maxLocalPart   = 64  // RFC 5321, 4.5.3.1.1
	maxDisplayName = 100
	maxAvatarURL   = 512
)

var (
	usernameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{2,63}$`)
	// emailForm is the check email_format of the table.
	emailForm = regexp.MustCompile(`^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$`)
	labelForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

// CheckUsername says what is wrong with a new user name; "" means nothing.
// A name cannot hold an @, so it never looks like an e-mail address.
func CheckUsername(name string) string {
	if !usernameForm.MatchString(name) {
		return "must be 3 to 64 letters, digits or . _ - and begin with a letter or digit"
	}
	return ""
}

// NormalizeEmail lower-cases the domain, which is the same in any case, and
// keeps the local part as its owner writes it.
func NormalizeEmail(email string) string {
	at := strings.LastIndexByte(email, '@')
	if at < 0 {
		return email
	}
	return email[:at] + strings.ToLower(email[at:])
}

// CheckEmail says what is wrong with an address; "" means nothing. Domains
// beyond ASCII are refused, as the table's check email_format does.
func CheckEmail(email string) string {
	if len(email) > maxEmail {
		return "must be at most 254 characters"
	}
	if !emailForm.MatchString(email) {
		return "must look like name@example.org"
	}
	local, domain, _ := strings.Cut(email, "@")
	if len(local) > maxLocalPart || strings.HasPrefix(local, ".") || strings.HasSuffix(local, ".") || strings.Contains(local, "..") {
		return "has a part before the @ that no mail server accepts"
	}
	for label := range strings.SplitSeq(domain, ".") {
		if !labelForm.MatchString(label) {
			return "has a domain that cannot exist"
		}
	}
	return ""
}

// NormalizeDisplayName composes (NFC), makes every kind of blank a plain one
// and cuts blanks off both ends.
func NormalizeDisplayName(name string) string {
	return strings.TrimSpace(strings.Map(plainSpace, norm.NFC.String(name)))
}

// plainSpace maps the separators other than lines and paragraphs to a blank.
func plainSpace(r rune) rune {
	if unicode.Is(unicode.Zs, r) {
		return ' '
	}
	return r
}

// CheckDisplayName says what is wrong with a display name; "" means nothing.
// Empty is fine. Control characters and what turns the direction of text are
// refused; the joiners that emoji and some scripts need are not.
func CheckDisplayName(name string) string {
	if utf8.RuneCountInString(name) > maxDisplayName {
		return "must be at most 100 characters"
	}
	for _, r := range name {
		joiner := r == '\u200c' || r == '\u200d'
		if r == utf8.RuneError || (!joiner && !unicode.IsPrint(r)) {
			return "must hold only characters that can be shown"
		}
	}
	return ""
}

// CheckAvatarURL says what is wrong with the address of a picture; "" means nothing.
func CheckAvatarURL(raw string) string {
	if raw == "" {
		return ""
	}
	if len(raw) > maxAvatarURL {
		return "must be at most 512 characters"
	}
	for i := range len(raw) {
		if raw[i] <= ' ' || raw[i] > '~' {
			return "must be an address of plain characters, without blanks"
		}
	}
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil {
		return "must be an http or https address without a user name"
	}
	return ""
}

// note adds a fault if there is one.
func note(f *errs.Fields, field, fault string) {
	if fault != "" {
		f.Add(field, fault)
	}
}

// storable reports whether PostgreSQL can hold s as text.
func storable(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
