package stream

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"rootstream/errs"
)

const (
	maxName        = 255
	maxDescription = 4000
	maxURL         = 512
	maxPath        = 512
	maxBitrate     = 10_000_000 // kbit/s
	maxFPS         = 1000
)

var (
	resolutionForm = regexp.MustCompile(`^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$`)
	codecForm      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+/ -]{0,49}$`)
)

func checkName(f *errs.Fields, name string) {
	if strings.TrimSpace(name) == "" || utf8.RuneCountInString(name) > maxName || !printable(name, "") {
		f.Add("name", "must be 1 to 255 printable characters")
	}
}

func checkDescription(f *errs.Fields, text string) {
	if utf8.RuneCountInString(text) > maxDescription || !printable(text, "\n\r\t") {
		f.Add("description", "must be at most 4000 characters of text")
	}
}

// printable reports whether all of s can be shown; also lists further runes that are allowed.
func printable(s, also string) bool {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		}
		// Joiners are not printable by Unicode's category, but emoji and many scripts need them.
		if !unicode.IsPrint(r) && !strings.ContainsRune(also, r) && r != '\u200d' && r != '\u200c' {
			return false
		}
	}
	return true
}

func checkURL(f *errs.Fields, field, s string) {
	if s == "" {
		return
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || len(s) > maxURL || !printable(s, "") ||
		u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "rtmp" && u.Scheme != "rtmps" && u.Scheme != "srt" {
		f.Add(field, "must be an http, rtmp or srt URL of at most 512 bytes")
	}
}

func checkCodec(f *errs.Fields, s string) {
	if s != "" && !codecForm.MatchString(s) {
		f.Add("codec", "must be a name such as h264, at most 50 characters")
	}
}

func checkResolution(f *errs.Fields, s string) {
	if s != "" && !resolutionForm.MatchString(s) {
		f.Add("resolution", "must be WIDTHxHEIGHT in pixels, such as 1920x1080")
	}
}

func checkBitrate(f *errs.Fields, n *int) {
	if n != nil && (*n < 0 || *n > maxBitrate) {
		f.Add("bitrate_kbps", "must be between 0 and 10000000")
	}
}

func checkFPS(f *errs.Fields, n *int) {
	if n != nil && (*n < 0 || *n > maxFPS) {
		f.Add("fps", "must be between 0 and 1000")
	}
}

// checkPath accepts names below the place where recordings are kept, and nothing that leads out of it.
func checkPath(f *errs.Fields, p string) {
	if p == "" || len(p) > maxPath || !printable(p, "") || strings.ContainsAny(p, `\:`) ||
		path.IsAbs(p) || path.Clean(p) != p || p == "." || p == ".." || strings.HasPrefix(p, "../") {
		f.Add("file_path", "must be a relative path without .. of at most 512 bytes")
	}
}
