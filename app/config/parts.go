package config

import (
	"io"
	"log/slog"
	"net/url"

	"rootstream/cache"
	"rootstream/errs"
	"rootstream/notify"
)

// KeysetName is the row of the one keyset there is.
const KeysetName = "main"

// Configured reports whether there is a Redis at all.
func (c Redis) Configured() bool {
	return !c.URL.IsZero() || c.SentinelMaster != "" || len(c.ClusterAddrs) > 0
}

// Client is how the cache is reached.
func (c Redis) Client() (cache.Config, error) {
	cfg := cache.Config{CommandTimeout: c.CommandTimeout}
	if c.SentinelMaster == "" && len(c.ClusterAddrs) == 0 {
		cfg.URL = c.URL.Reveal()
		return cfg, nil
	}
	if !c.URL.IsZero() { // gives the account, the addresses come from elsewhere
		u, err := url.Parse(c.URL.Reveal())
		if err != nil {
			return cache.Config{}, errs.NewInvalid("redis.url", "is not a URL")
		}
		cfg.Username = u.User.Username()
		cfg.Password, _ = u.User.Password()
	}
	cfg.Cluster, cfg.Addrs = len(c.ClusterAddrs) > 0, c.ClusterAddrs
	cfg.Sentinel = cache.SentinelConfig{Master: c.SentinelMaster, Addrs: c.SentinelAddrs, Password: c.SentinelPassword.Reveal()}
	return cfg, nil
}

// Notify is how mail and webhooks leave.
func (c Config) Notify() notify.Config {
	m, hooks := c.Mail, map[string]notify.Endpoint{}
	for _, w := range c.Webhooks {
		e := notify.Endpoint{URL: w.URL}
		for _, s := range w.Secrets {
			e.Secrets = append(e.Secrets, s.Reveal)
		}
		hooks[w.URL] = e
	}
	return notify.Config{
		Mail: notify.MailConfig{
			From: m.From, Dir: m.Dir,
			SMTP: notify.SMTPConfig{Host: m.SMTPHost, Port: m.SMTPPort, Username: m.SMTPUser, Password: m.SMTPPass.Reveal, TLS: notify.TLSMode(m.SMTPTLS)},
		},
		Webhooks: notify.WebhookConfig{Endpoints: hooks},
	}
}

// Logger writes the log as configured; to nil it writes nothing.
func (c Log) Logger(w io.Writer) *slog.Logger {
	if w == nil {
		w = io.Discard
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // validated when it was loaded
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
