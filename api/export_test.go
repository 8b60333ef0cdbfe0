package api

import (
	"net/http"
	"net/netip"

	"rootstream/session"
)

// What tests of pure parts look at.

type ValidateRequest = validateRequest

func ScanValidate(body string) (ValidateRequest, bool) { return scanValidate(body) }

func ScanBatch(body string) ([]string, bool) { return scanBatch(body, nil) }

// AppendVerdict and VerdictOf are two ways to one answer.
func AppendVerdict(b []byte, v *session.View, valid bool) []byte { return appendVerdict(b, v, valid) }

func VerdictOf(v *session.View, valid bool) any { return verdictOf(v, valid) }

func ClientBehind(proxy netip.Addr, headers []string, trusted []netip.Prefix) netip.Addr {
	return clientBehind(proxy, headers, trusted)
}

func LocalHost(host string) bool { return localHost(host) }

func RequestID(r *http.Request) string { return newRequestID(r) }

func CleanPath(p string) string { return cleanPath(p) }

func Unmarshal(b []byte, v any) error { return unmarshal(b, v) }
