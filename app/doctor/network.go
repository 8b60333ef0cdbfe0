package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"rootstream/app/config"
	"rootstream/internal/counted"
	"rootstream/postgres"
)

// maxSkew is how far the clocks of the parts may be apart.
const maxSkew = 2 * time.Second

// certificateNotice is how long before its end a certificate is a fault.
const certificateNotice = 14 * 24 * time.Hour

func databaseAddress(cfg config.Config) string { return postgres.Address(cfg.Postgres.DSN.Reveal()) }

func (x examination) redis() []Finding {
	const name = "redis"
	r := x.examined.redis
	if !r.configured {
		return []Finding{fine(name, "none is configured: everything is read from PostgreSQL")}
	}
	if r.err != nil {
		f := failed(name, r.err, "start Redis and let this machine connect; the address is the setting redis.url")
		switch {
		case strings.Contains(f.Detail, "WRONGPASS"), strings.Contains(f.Detail, "NOAUTH"):
			f.Remedy = "let redis.url carry the password of requirepass in redis.conf: redis://:PASSWORD@HOST:PORT/0"
		case x.running:
			f.Remedy = "the stack runs, so see " + x.dir + "/logs/redis.log"
		case x.dir != "":
			f.Remedy = upCommand(x.dir)
		}
		return []Finding{f}
	}
	i := r.info
	findings := []Finding{fine(name, "Redis %s (%s) at %s", i.Version, i.Mode, i.Addr)}
	if i.Role == "slave" {
		findings[0] = Finding{Name: name, Detail: i.Addr + " is a replica and takes no writes", Remedy: "let redis.url name the master, or redis.sentinel_master find it"}
	}
	password := fine("redis_password", "clients need a password")
	if !i.PasswordNeeded {
		password = Finding{
			Name: "redis_password", Detail: i.Addr + " lets in clients without a password",
			Remedy: "set requirepass in redis.conf and the same password in redis.url: redis://:PASSWORD@HOST:PORT/0",
		}
	}
	eviction := fine("redis_eviction", "maxmemory-policy is noeviction")
	if i.MaxMemoryPolicy != "" && i.MaxMemoryPolicy != "noeviction" {
		eviction = Finding{
			Name: "redis_eviction", Detail: "maxmemory-policy is " + i.MaxMemoryPolicy + ": under pressure Redis drops live keys",
			Remedy: "redis-cli CONFIG SET maxmemory-policy noeviction, and the same line in redis.conf",
		}
	}
	memory := fine("redis_memory", "%d MiB used", i.UsedMemory>>20)
	if i.MaxMemory > 0 && 10*i.UsedMemory > 9*i.MaxMemory {
		memory = Finding{
			Name: "redis_memory", Detail: fmt.Sprintf("%d of %d MiB used: writes will soon be refused", i.UsedMemory>>20, i.MaxMemory>>20),
			Remedy: "raise maxmemory in redis.conf",
		}
	}
	return append(findings, password, eviction, memory)
}

// clocks compares this machine's clock, PostgreSQL's and Redis'.
func (x examination) clocks() []Finding {
	type clock struct {
		whose string
		ahead time.Duration // of this machine's
	}
	clocks := []clock{{"this machine", 0}}
	if x.database.err == nil {
		clocks = append(clocks, clock{"PostgreSQL", x.database.server.ClockOffset})
	}
	if r := x.examined.redis; r.configured && r.err == nil {
		clocks = append(clocks, clock{"Redis", r.info.ClockOffset})
	}
	if len(clocks) == 1 {
		return nil
	}
	least, most := clocks[0], clocks[0]
	var said []string
	for _, c := range clocks[1:] {
		if c.ahead < least.ahead {
			least = c
		}
		if c.ahead > most.ahead {
			most = c
		}
		said = append(said, fmt.Sprintf("%s %+.3f s", c.whose, c.ahead.Seconds()))
	}
	f := Finding{Name: "clocks", OK: most.ahead-least.ahead <= maxSkew, Detail: "against this machine: " + strings.Join(said, ", ")}
	if !f.OK {
		f.Remedy = fmt.Sprintf("the clock of %s is %.1f s ahead of that of %s: let NTP set both (timedatectl set-ntp true)",
			most.whose, (most.ahead - least.ahead).Seconds(), least.whose)
	}
	return []Finding{f}
}

func (x examination) tls() []Finding {
	const name = "tls_certificate"
	h := x.cfg.HTTP
	if h.TLSCert == "" || h.TLSKey == "" {
		if err := x.cfg.MayListen(); err != nil {
			return []Finding{failed("listen_address", err, "")}
		}
		return []Finding{fine(name, "none: plain HTTP on loopback or behind a proxy")}
	}
	return []Finding{certificateFinding(name, h.TLSCert, h.TLSKey, x.cfg.HTTP.PublicURL, x.now)}
}

// certificateFinding judges a certificate chain, its key, and the name people use.
func certificateFinding(name, certFile, keyFile, publicURL string, now time.Time) Finding {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return failed(name, err, "correct http.tls_cert and http.tls_key, or let this user read the files")
	case err != nil && strings.Contains(err.Error(), "does not match"):
		return failed(name, fmt.Errorf("%s does not belong to %s", keyFile, certFile), "let http.tls_cert and http.tls_key name the files of one certificate")
	case err != nil:
		return failed(name, err, "let http.tls_cert name a certificate chain and http.tls_key its key, both PEM")
	}
	leaf := pair.Leaf
	ends := leaf.NotAfter
	for _, c := range chain(certFile) {
		if c.NotAfter.Before(ends) {
			ends = c.NotAfter
		}
	}
	until := ends.UTC().Format(time.RFC3339)
	const renew = "renew the certificate, then restart rootstream serve"
	switch left := ends.Sub(now); {
	case left <= 0:
		return Finding{Name: name, Detail: certFile + " expired at " + until, Remedy: renew}
	case left < certificateNotice:
		return Finding{Name: name, Detail: fmt.Sprintf("%s expires in %s, at %s", certFile, counted.Of(int(left.Hours()/24), "day"), until), Remedy: renew}
	case now.Before(leaf.NotBefore):
		return Finding{Name: name, Detail: certFile + " is not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339), Remedy: "wait, or set this machine's clock: timedatectl set-ntp true"}
	}
	if u, err := url.Parse(publicURL); err == nil && u.Scheme == "https" && leaf.VerifyHostname(u.Hostname()) != nil && !config.Loopback(u.Hostname()) {
		return Finding{Name: name, Detail: certFile + " is not for " + u.Hostname() + ", which http.public_url names", Remedy: "get a certificate for that name, or correct http.public_url"}
	}
	return fine(name, "%s is valid until %s", certFile, until)
}

// chain reads the certificates of a PEM file that was read as a key pair already.
func chain(file string) []*x509.Certificate {
	rest, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c)
		}
	}
}

func (x examination) api() []Finding {
	const name = "api"
	a := x.examined.api
	at := x.cfg.PublicURL()
	switch {
	case a.absent && !x.running:
		remedy := "" // where it should run is not known
		if x.dir != "" {
			remedy = upCommand(x.dir)
		}
		return []Finding{{Name: name, OK: x.dir == "", Detail: "nothing listens at " + at, Remedy: remedy}}
	case a.err != nil && x.running:
		return []Finding{failed(name, a.err, "the stack runs, so see "+x.dir+"/logs/serve.log")}
	case a.err != nil:
		return []Finding{failed(name, a.err, "correct http.public_url, or stop what listens there")}
	case a.status != "ready":
		return []Finding{{Name: name, Detail: at + " is " + a.status + ": " + strings.Join(x.failing(), ", "), Remedy: "mend the parts named; it recovers by itself"}}
	}
	return []Finding{fine(name, "ready at %s", at)}
}
