package config

import (
	"net"
	"net/netip"
	"os"

	"rootstream/errs"
)

// ErrPlainHTTP keeps passwords from crossing a network in the clear.
var ErrPlainHTTP = errs.New(errs.Invalid, "plain_http", "plain HTTP is served on loopback only").
	WithHint("give --tls-cert and --tls-key, or name the proxies that end TLS in http.trusted_proxies")

// MayListen refuses an address beyond this machine without TLS of our own or a proxy's.
func (c Config) MayListen() error {
	if c.HTTP.TLSCert != "" || len(c.HTTP.TrustedProxies) > 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(c.HTTP.Listen)
	if err != nil {
		return errs.NewInvalid("http.listen", "must be host:port")
	}
	if Loopback(host) {
		return nil
	}
	return ErrPlainHTTP
}

// Loopback reports whether a host is this machine, by its name or address alone.
func Loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && addr.IsLoopback())
}

// PublicURL is where people reach the API; links begin with it.
func (c Config) PublicURL() string {
	if c.HTTP.PublicURL != "" {
		return c.HTTP.PublicURL
	}
	return URLOf(c.HTTP.Listen, c.HTTP.TLSCert != "")
}

// InstanceURL tells one of many instances, which may share a public address, from the others.
func (c Config) InstanceURL() string {
	listen := c.HTTP.Listen
	if host, port, err := net.SplitHostPort(listen); err == nil && anywhere(host) {
		if name, err := os.Hostname(); err == nil {
			listen = net.JoinHostPort(name, port)
		}
	}
	return URLOf(listen, c.HTTP.TLSCert != "")
}

// URLOf is where a server that listens at an address is reached from this machine.
func URLOf(listen string, tls bool) string {
	scheme := "http"
	if tls {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return scheme + "://" + listen
	}
	if anywhere(host) {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// anywhere reports whether who listens at host does so at all addresses of the machine.
func anywhere(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || (err == nil && addr.IsUnspecified())
}
