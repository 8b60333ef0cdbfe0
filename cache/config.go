package cache

import (
	"cmp"
	"crypto/tls"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/errs"
)

// Config says where Redis is and how long to wait for it. URL or Addrs or Sentinel.Addrs must be given.
type Config struct {
	// URL is redis://user:password@host:port/db, rediss:// for TLS, or unix:///path?db=0. Further nodes are added
	// by ?addr=host:port, a Redis Cluster is chosen by ?cluster=true, a Sentinel master by ?master_set=name
	// (the addresses are then those of the sentinels).
	URL      string
	Addrs    []string       // host:port; more than one only with Cluster
	Cluster  bool           // Addrs are nodes of a Redis Cluster
	Sentinel SentinelConfig // if Master is set, the master is asked of these sentinels
	Username string         // of the ACL user; empty means "default"
	Password string         // overrides the one in URL
	DB       int            // database number; must be 0 with Cluster
	TLS      *tls.Config    // nil means plain TCP, except for rediss://

	DialTimeout    time.Duration // for a connection with its handshake; 0 means 1s
	CommandTimeout time.Duration // for the answer to a command; 0 means 500ms
	LinkTimeout    time.Duration // a link silent for so long after a ping is dead; 0 means 1.5s
	ProbeInterval  time.Duration // between pings; 0 means 1s

	// OnInvalidate is told which session views (keys that begin with SessionViewPrefix) changed, expired or were
	// deleted by anyone. Nil means: all of them may have; it comes when a tracking link is lost, and again once it is
	// back. It is called from several goroutines and must return fast. Nil means no tracking.
	OnInvalidate func(keys []string)

	Registerer prometheus.Registerer // nil means metrics are not registered
	Logger     *slog.Logger          // nil means slog.Default
}

// SentinelConfig names a master set and the sentinels that watch it.
type SentinelConfig struct {
	Master   string   // name of the master set
	Addrs    []string // host:port of the sentinels
	Username string   // of the sentinels themselves
	Password string   // of the sentinels themselves
}

// resolve applies URL and defaults and reports all faults at once.
func (c Config) resolve() (Config, error) {
	var f errs.Fields
	if c.URL != "" {
		c.applyURL(&f)
	}
	if c.Sentinel.Master != "" && len(c.Sentinel.Addrs) == 0 {
		c.Sentinel.Addrs, c.Addrs = c.Addrs, nil
	}
	switch {
	case c.Sentinel.Master != "" && c.Cluster:
		f.Add("cluster", "cannot be combined with sentinel")
	case c.Sentinel.Master == "" && len(c.Sentinel.Addrs) > 0:
		f.Add("sentinel.master", "is needed: the name of the master set")
	case c.Sentinel.Master != "":
		checkAddrs(&f, "sentinel.addrs", c.Sentinel.Addrs)
	default:
		checkAddrs(&f, "addrs", c.Addrs)
		if len(c.Addrs) > 1 && !c.Cluster {
			f.Add("addrs", "more than one address needs cluster or sentinel")
		}
	}
	if c.DB < 0 || (c.Cluster && c.DB != 0) {
		f.Add("db", "must be 0 with cluster, and never negative")
	}
	c.DialTimeout = orDefault(&f, "dial_timeout", c.DialTimeout, time.Second)
	c.CommandTimeout = orDefault(&f, "command_timeout", c.CommandTimeout, 500*time.Millisecond)
	c.LinkTimeout = orDefault(&f, "link_timeout", c.LinkTimeout, 1500*time.Millisecond)
	c.ProbeInterval = orDefault(&f, "probe_interval", c.ProbeInterval, time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("component", "cache")
	return c, f.Err()
}

func orDefault(f *errs.Fields, field string, d, def time.Duration) time.Duration {
	if d < 0 {
		f.Add(field, "must not be negative")
	}
	if d == 0 {
		return def
	}
	return d
}

func checkAddrs(f *errs.Fields, field string, addrs []string) {
	if len(addrs) == 0 {
		f.Add(field, "is needed: host:port of Redis")
	}
	for _, a := range addrs {
		if strings.HasPrefix(a, "/") {
			continue
		}
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			f.Add(field, "each must be host:port")
		}
	}
}

// applyURL fills in what the URL says. The URL is never part of a message: it may hold a password.
func (c *Config) applyURL(f *errs.Fields) {
	u, err := url.Parse(c.URL)
	if err != nil {
		f.Add("url", "is not a URL")
		return
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		f.Add("url", "has a malformed query")
		return
	}
	path := strings.Trim(u.Path, "/")
	switch u.Scheme {
	case "redis", "rediss":
		if u.Scheme == "rediss" && c.TLS == nil {
			c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		c.Addrs = append(c.Addrs, hostPort(u.Host))
		for _, a := range q["addr"] {
			c.Addrs = append(c.Addrs, hostPort(a))
		}
	case "unix":
		c.Addrs = append(c.Addrs, u.Path)
		path = ""
	default:
		f.Add("url", "must begin with redis://, rediss:// or unix://")
		return
	}
	if db := cmp.Or(q.Get("db"), path); db != "" {
		if c.DB, err = strconv.Atoi(db); err != nil {
			f.Add("url", "names a database that is not a number")
		}
	}
	if u.User != nil && c.Username == "" {
		c.Username = u.User.Username()
	}
	if u.User != nil && c.Password == "" {
		c.Password, _ = u.User.Password()
	}
	if name := q.Get("master_set"); name != "" {
		c.Sentinel.Master = name
	}
	if v := q.Get("cluster"); v != "" {
		if c.Cluster, err = strconv.ParseBool(v); err != nil {
			f.Add("url", "says cluster= with something else than true or false")
		}
	}
}

// hostPort completes an address with localhost and 6379.
func hostPort(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), ""
	}
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port = "6379"
	}
	return net.JoinHostPort(host, port)
}
