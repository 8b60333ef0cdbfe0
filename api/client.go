package api

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"rootstream/auth"
)

// facts is what handlers may want to know of the request itself.
type facts struct {
	id        string // names the request in the log
	peer      peer
	token     string
	device    string
	userAgent string
	principal auth.Principal // once the gate has let it in
}

type factsKey struct{}

func newFacts(r *http.Request, p peer) *facts {
	return &facts{id: newRequestID(r), peer: p, token: tokenOf(r, p), device: deviceOf(r, p), userAgent: r.UserAgent()}
}

// identified gives a request its id and its facts, for as long as it may take; 0 means as long as it likes.
func identified(w http.ResponseWriter, r *http.Request, p peer, longest time.Duration) (*http.Request, context.CancelFunc) {
	f := newFacts(r, p)
	w.Header().Set("X-Request-Id", f.id)
	ctx, cancel := context.WithValue(r.Context(), factsKey{}, f), context.CancelFunc(nil)
	if longest == 0 {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, longest)
	}
	return r.WithContext(ctx), cancel
}

func factsOf(ctx context.Context) *facts {
	if f, ok := ctx.Value(factsKey{}).(*facts); ok {
		return f
	}
	return &facts{}
}

func requestID(ctx context.Context) string { return factsOf(ctx).id }

// caller is who made an authenticated request.
func caller(ctx context.Context) auth.Principal { return factsOf(ctx).principal }

// client describes where a request comes from, for limits and for the record.
func client(ctx context.Context) auth.Client {
	f := factsOf(ctx)
	return auth.Client{IP: f.peer.addr, UserAgent: f.userAgent, DeviceID: f.device, RequestID: f.id}
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
	addr    netip.Addr // of the client
	local   bool       // the connection itself comes from this machine
	behind  bool       // a proxy stands between, trusted or not
	https   bool       // all the way, as far as we can know
	private bool       // nobody on a network can listen: https, or it never leaves the machine
}

// onMachine reports whether a program on this machine speaks for itself. A page
// that had its own name point here (DNS rebinding) does not.
func (p *peer) onMachine(r *http.Request) bool { return p.local && !p.behind && localHost(r.Host) }

// peerOf believes what trusted proxies say of the client, and nobody else. They
// end TLS, unless they say themselves that the client came without.
func peerOf(r *http.Request, trusted []netip.Prefix) peer {
	addr := remoteAddr(r)
	p := peer{addr: addr, local: addr.IsLoopback(), behind: forwarded(r.Header), https: r.TLS != nil}
	if len(trusted) > 0 && within(addr, trusted) {
		p.addr = clientBehind(addr, r.Header["X-Forwarded-For"], trusted)
		switch r.Header.Get("X-Forwarded-Proto") {
		case "https":
			p.https = true
		case "":
			p.https = p.https || !p.addr.IsLoopback()
		default:
			p.https = false
		}
	}
	p.private = p.https || p.addr.IsLoopback()
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
func forwarded(h http.Header) bool {
	return h["X-Forwarded-For"] != nil || h["X-Forwarded-Host"] != nil || h["X-Forwarded-Proto"] != nil ||
		h["X-Real-Ip"] != nil || h["Forwarded"] != nil || h["Via"] != nil
}

// localHost reports whether a Host header is an address or localhost: a name
// could be anybody's.
func localHost(host string) bool {
	if host == "" {
		return true // HTTP/1.0: no page can leave it out
	}
	if host[0] >= '0' && host[0] <= '9' || host[0] == '[' {
		if _, err := netip.ParseAddrPort(host); err == nil {
			return true
		}
		_, err := netip.ParseAddr(strings.Trim(host, "[]"))
		return err == nil
	}
	name, _, _ := strings.Cut(host, ":")
	return strings.EqualFold(name, "localhost")
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
