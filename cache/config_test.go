package cache_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/cache"
	"rootstream/cache/cachetest"
	"rootstream/errs"
)

func TestOpenNamesEveryFaultOfTheConfiguration(t *testing.T) {
	t.Parallel()
	sentinel := cache.SentinelConfig{Master: "m", Addrs: []string{"a:1"}}
	for name, tt := range map[string]struct {
		cfg    cache.Config
		fields []string
	}{
		"nothing":              {cache.Config{}, []string{"addrs"}},
		"no port":              {cache.Config{Addrs: []string{"host"}}, []string{"addrs"}},
		"two servers":          {cache.Config{Addrs: []string{"a:1", "b:1"}}, []string{"addrs"}},
		"sentinel and cluster": {cache.Config{Cluster: true, Sentinel: sentinel}, []string{"cluster"}},
		"sentinel, no master":  {cache.Config{Sentinel: cache.SentinelConfig{Addrs: []string{"a:1"}}}, []string{"sentinel.master"}},
		"sentinel, no address": {cache.Config{Sentinel: cache.SentinelConfig{Master: "m"}}, []string{"sentinel.addrs"}},
		"cluster with db":      {cache.Config{Addrs: []string{"a:1"}, Cluster: true, DB: 1}, []string{"db"}},
		"negative":             {cache.Config{Addrs: []string{"a:1"}, DB: -1, DialTimeout: -1}, []string{"db", "dial_timeout"}},
		"scheme":               {cache.Config{URL: "http://:secret@a"}, []string{"url", "addrs"}},
		"no URL":               {cache.Config{URL: "redis://:secret@a:x y"}, []string{"url", "addrs"}},
		"query":                {cache.Config{URL: "redis://a/?%zz"}, []string{"url", "addrs"}},
		"db":                   {cache.Config{URL: "redis://:secret@a/x"}, []string{"url"}},
		"cluster flag":         {cache.Config{URL: "redis://:secret@a?cluster=maybe"}, []string{"url"}},
	} {
		_, err := cache.Open(t.Context(), tt.cfg)
		var got []string
		for _, f := range errs.FieldsOf(err) {
			got = append(got, f.Field)
		}
		if strings.Join(got, " ") != strings.Join(tt.fields, " ") {
			t.Errorf("%s: faults in %v (%v), want %v", name, got, err, tt.fields)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the password shows: %v", name, err)
		}
	}
}

func TestURLChoosesDatabaseSentinelAndCluster(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	c := open(t, cache.Config{URL: srv.URL() + "/3"})
	must(t, c.Set(t.Context(), "k", "v", time.Minute))
	if v := srv.Do("GET", "k"); v != nil {
		t.Errorf("database 0 has %v, want it in 3", v)
	}
	set := cachetest.Cluster(t)
	url := strings.Replace(srv.URL(), srv.Addr(), set.Nodes[0].Addr(), 1) + "?cluster=true&addr=" + set.Nodes[1].Addr()
	must(t, open(t, cache.Config{URL: url}).Set(t.Context(), "k", "v", time.Minute))
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "rs") //nolint:usetesting // a socket's path has at most 107 bytes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	sock := filepath.Join(dir, "r.sock")
	srv := cachetest.Server(t, "unixsocket "+sock)
	must(t, open(t, cache.Config{URL: "unix://" + sock, Password: srv.Password()}).Ping(t.Context()))
}

func TestTLSIsUsedAndVerified(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	port := strconv.Itoa(cachetest.FreePort(t))
	srv := cachetest.Server(t, "tls-port "+port, "tls-auth-clients no",
		"tls-cert-file "+filepath.Join(dir, "cert.pem"), "tls-key-file "+filepath.Join(dir, "key.pem"),
		"tls-ca-cert-file "+filepath.Join(dir, "cert.pem"))
	url := "rediss://:" + srv.Password() + "@127.0.0.1:" + port
	h := newHeard()
	c := open(t, cache.Config{URL: url, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, OnInvalidate: h.on})
	must(t, c.Set(t.Context(), "rss:{a}", "v", time.Minute))
	eventually(t, 2*time.Second, "tracking over TLS", h.key("rss:{a}"))
	info, err := c.Info(t.Context())
	if err != nil || !info.PasswordNeeded {
		t.Errorf("Info = %+v, %v", info, err)
	}
	stranger := open(t, cache.Config{URL: url, DialTimeout: 300 * time.Millisecond})
	eventually(t, 5*time.Second, "a certificate of an unknown authority is refused", func() bool {
		err := stranger.Ping(t.Context())
		return errors.Is(err, cache.ErrUnavailable) && strings.Contains(err.Error(), "certificate")
	})
}

func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(t, os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

func TestInfoTellsWhatDoctorNeeds(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t, "maxmemory 100mb", "maxmemory-policy allkeys-lru")
	info, err := srv.Client(t, cache.Config{}).Info(t.Context())
	must(t, err)
	if !strings.HasPrefix(info.Version, "7.") || info.MaxMemoryPolicy != "allkeys-lru" || info.MaxMemory != 100<<20 ||
		info.Role != "master" || info.Mode != "standalone" || !info.PasswordNeeded || info.UsedMemory == 0 ||
		info.Clients == 0 || info.Addr != srv.Addr() {
		t.Errorf("Info = %+v", info)
	}
	if info.ClockOffset.Abs() > time.Second {
		t.Errorf("clock offset %v on one machine", info.ClockOffset)
	}
	naked := cachetest.Server(t, cachetest.NoPassword)
	if info, err = naked.Client(t, cache.Config{}).Info(t.Context()); err != nil || info.PasswordNeeded {
		t.Errorf("Info of a server without a password = %+v, %v", info, err)
	}
}

func TestMetricsCountOperationsHitsAndMisses(t *testing.T) {
	t.Parallel()
	srv := cachetest.Server(t)
	reg := prometheus.NewRegistry()
	c := srv.Client(t, cache.Config{Registerer: reg})
	twin := srv.Client(t, cache.Config{Registerer: reg}) // shares the counters
	ctx := t.Context()
	must(t, c.Set(ctx, "k", "v", time.Minute))
	for _, cl := range []*cache.Client{c, twin} {
		_, _, err := cl.Get(ctx, "k")
		must(t, err)
	}
	_, _, _ = c.Get(ctx, "none")
	_, _ = c.Incr(ctx, "k", 1)
	srv.Kill()
	eventually(t, 3*time.Second, "outage", func() bool { return !c.Healthy() && !twin.Healthy() })
	_, _, _ = c.Get(ctx, "k")
	for name, want := range map[string]float64{
		`rootstream_cache_operations_total get ok`:          3,
		`rootstream_cache_operations_total get unavailable`: 1,
		`rootstream_cache_operations_total incr error`:      1,
		`rootstream_cache_operations_total set ok`:          1,
		`rootstream_cache_hits_total`:                       2,
		`rootstream_cache_misses_total`:                     1,
		`rootstream_cache_up`:                               0,
		`rootstream_cache_operation_duration_seconds get`:   3,
	} {
		if got := metric(t, reg, name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	bad := prometheus.NewRegistry()
	bad.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "rootstream_cache_hits_total", Help: "other"}))
	if _, err := cache.Open(ctx, cache.Config{URL: srv.URL(), Registerer: bad}); err == nil {
		t.Error("a name that is taken by something else is not reported")
	}
}

func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			id := f.GetName()
			for _, l := range m.GetLabel() {
				id += " " + l.GetValue()
			}
			if id != name {
				continue
			}
			switch {
			case m.GetCounter() != nil:
				return m.GetCounter().GetValue()
			case m.GetGauge() != nil:
				return m.GetGauge().GetValue()
			default:
				return float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return -1
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{
		"redis://", "redis://:pw@h:1/2", "rediss://u:p@[::1]:6380?addr=b:1&cluster=1", "unix:///tmp/r.sock?db=1",
		"redis://h?master_set=m", "redis://h/-1", "http://h", "redis://h:x", "redis://%zz", "unix://",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cfg, err := cache.Resolve(cache.Config{URL: s})
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		for _, a := range append(cfg.Addrs, cfg.Sentinel.Addrs...) {
			if _, port, err := net.SplitHostPort(a); (err != nil || port == "") && !strings.HasPrefix(a, "/") {
				t.Fatalf("%q gives the address %q", s, a)
			}
		}
	})
}
