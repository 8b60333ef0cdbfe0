package api

import (
	"context"
	"net/http"
	"net/netip"
	"strings"

	"github.com/google/uuid"
)

type contextKey int

const (
	requestIDKey contextKey = iota
	clientKey
	principalKey
	requestKey
)

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey).(string)
	return id
}

// newRequestID takes the caller's X-Request-Id where it is harmless, else makes one.
func newRequestID(r *http.Request) string {
	given := r.Header.Get("X-Request-Id")
	if len(given) < 8 || len(given) > 64 {
		return uuid.Must(uuid.NewV7()).String()
	}
	for _, c := range given {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", c) {
			return uuid.Must(uuid.NewV7()).String()
		}
	}
	return given
}

// peer is who sent a request, proxies that we trust looked through.
type peer struct {
	addr     netip.Addr
	loopback bool // the connection itself comes from this machine and no proxy stands between
	https    bool
}

// peerOf believes what trusted proxies say of the client, and nobody else.
func peerOf(r *http.Request, trusted []netip.Prefix) peer {
	addr := remoteAddr(r)
	p := peer{addr: addr, loopback: addr.IsLoopback() && !forwarded(r), https: r.TLS != nil}
	if !within(addr, trusted) {
		return p
	}
	p.addr = clientBehind(addr, r.Header.Values("X-Forwarded-For"), trusted)
	p.https = p.https || r.Header.Get("X-Forwarded-Proto") == "https"
	return p
}

// clientBehind walks X-Forwarded-For from the right over trusted proxies. What
// stands left of the first stranger is a stranger's claim; a hop that is no
// address ends the walk at the proxy that reported it.
func clientBehind(proxy netip.Addr, headers []string, trusted []netip.Prefix) netip.Addr {
	hops := strings.Split(strings.Join(headers, ","), ",")
	at := proxy
	for i := len(hops) - 1; i >= 0 && within(at, trusted); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = hop.Unmap().WithZone("")
	}
	return at
}

// forwarded reports whether a proxy stands between: then the connection comes
// from this machine, but who speaks may not, whether or not we trust the proxy.
func forwarded(r *http.Request) bool {
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Forwarded", "Via"} {
		if len(r.Header.Values(name)) > 0 {
			return true
		}
	}
	return false
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func within(a netip.Addr, networks []netip.Prefix) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
