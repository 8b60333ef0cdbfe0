package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/postgres"
)

// Renderer makes a mail of a message at sending time. It runs in a transaction
// of its own, which is committed before the mail leaves; a repeat renders anew.
// An error of kind NotFound, Gone, Invalid or Malformed gives the message up,
// any other is tried again. Mail.To may stay empty: then it is the message's target.
type Renderer func(ctx context.Context, tx *postgres.Tx, payload json.RawMessage) (Mail, error)

// Config says what is sent and how. Zero values mean the defaults.
type Config struct {
	Mail        MailConfig
	Webhooks    WebhookConfig
	Renderers   map[string]Renderer // by topic; built-in topics work without one
	Concurrency int                 // messages of a channel on their way at once; 0 means 4
	Poll        time.Duration       // between looks into the outbox; 0 means 1s
	SendTimeout time.Duration       // longest time one try may take; 0 means 30s
	Lease       time.Duration       // until another process takes over a try that died; 0 means 2m
	FirstRetry  time.Duration       // pause after the first failure, then doubling to 2h; 0 means 10s
	MaxTries    int                 // then a message is given up; 0 means 22, about a day
	Keep        time.Duration       // how long sent messages are kept; 0 means 7 days
	Registerer  prometheus.Registerer
	Logger      *slog.Logger // nil means slog.Default
}

// MailConfig says how mail leaves. With neither SMTP.Host nor Dir, mail waits in the outbox.
type MailConfig struct {
	From    string     // the sender, as in "RootStream <no-reply@example.org>"
	Product string     // the name mails speak of; empty means RootStream
	Dir     string     // write .eml files into this folder in place of sending
	SMTP    SMTPConfig // used where Dir is empty
}

// WebhookConfig says where webhooks go.
//
// Endpoints are set by the operator, so private addresses are allowed unless
// DenyPrivate forbids them; set it where others can choose the URLs.
type WebhookConfig struct {
	Endpoints   map[string]Endpoint // by the name that Message.Target gives
	DenyPrivate bool                // refuse loopback, private, link-local and similar addresses
}

// Endpoint receives webhooks.
type Endpoint struct {
	URL     string          // http or https
	Secrets []func() string // each gives a secret (whsec_ + base64 of 24 to 64 bytes), newest first; several while they rotate
}

func (c Config) withDefaults() Config {
	orDefault := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	orDefault(&c.Poll, time.Second)
	orDefault(&c.SendTimeout, 30*time.Second)
	orDefault(&c.Lease, 2*time.Minute)
	orDefault(&c.FirstRetry, 10*time.Second)
	orDefault(&c.Keep, 7*24*time.Hour)
	if c.Concurrency == 0 {
		c.Concurrency = 4
	}
	if c.MaxTries == 0 {
		c.MaxTries = 22
	}
	if c.Mail.Product == "" {
		c.Mail.Product = "RootStream"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("component", "notify")
	return c
}

func (c Config) validate() error {
	var faults []error
	if c.Lease < 2*c.SendTimeout {
		faults = append(faults, fmt.Errorf("lease %s must be at least twice the send timeout %s", c.Lease, c.SendTimeout))
	}
	if c.Concurrency < 1 || c.MaxTries < 1 {
		faults = append(faults, errors.New("concurrency and max tries must be positive"))
	}
	return errors.Join(faults...)
}
