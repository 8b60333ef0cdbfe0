package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
)

// TLSMode says how an SMTP connection is protected.
type TLSMode string

// The TLS modes.
const (
	TLSMandatory     TLSMode = "mandatory"     // STARTTLS, or no mail; the default
	TLSOpportunistic TLSMode = "opportunistic" // STARTTLS where the server offers it
	TLSImplicit      TLSMode = "implicit"      // TLS from the first byte, usually port 465
	TLSNone          TLSMode = "none"          // plain text, for a server on this machine
)

// SMTPConfig says which server takes our mail.
type SMTPConfig struct {
	Host     string         // empty means no SMTP
	Port     int            // 0 means 587, or 465 with implicit TLS
	TLS      TLSMode        // empty means mandatory
	Username string         // empty means no authentication
	Password func() string  // asked for at each connection; never sent in the clear but to this machine
	HELO     string         // our name; empty means the host name
	RootCAs  *x509.CertPool // nil means the system's
	Timeout  time.Duration  // for connecting, and again for sending; 0 means 10s
}

// smtpMailer hands mail to an SMTP server, one connection a mail.
type smtpMailer struct {
	cfg  SMTPConfig
	from *mail.Address
}

func newSMTP(cfg SMTPConfig, from *mail.Address) (*smtpMailer, error) {
	if cfg.TLS == "" {
		cfg.TLS = TLSMandatory
	}
	switch cfg.TLS {
	case TLSMandatory, TLSOpportunistic, TLSImplicit, TLSNone:
	default:
		return nil, fmt.Errorf("smtp tls mode %q is none of mandatory, opportunistic, implicit, none", cfg.TLS)
	}
	if cfg.Port == 0 {
		cfg.Port = 587
		if cfg.TLS == TLSImplicit {
			cfg.Port = 465
		}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Username != "" && cfg.Password == nil {
		return nil, errors.New("smtp has a user name and no password")
	}
	s := &smtpMailer{cfg: cfg, from: from}
	_, err := s.client(nil)
	return s, err
}

// client is made per mail: it takes options only when made, and keeps state of its connection.
func (s *smtpMailer) client(dial gomail.DialContextFunc) (*gomail.Client, error) {
	opts := []gomail.Option{
		gomail.WithPort(s.cfg.Port), gomail.WithTimeout(s.cfg.Timeout), gomail.WithTLSConfig(s.tlsConfig()),
	}
	switch s.cfg.TLS {
	case TLSMandatory:
		opts = append(opts, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case TLSOpportunistic:
		opts = append(opts, gomail.WithTLSPolicy(gomail.TLSOpportunistic))
	case TLSImplicit, TLSNone: // dial protects the connection, or nothing does
		opts = append(opts, gomail.WithTLSPolicy(gomail.NoTLS))
	}
	if s.cfg.HELO != "" {
		opts = append(opts, gomail.WithHELO(s.cfg.HELO))
	}
	if s.cfg.Username != "" {
		opts = append(opts, gomail.WithUsername(s.cfg.Username), gomail.WithPassword(s.cfg.Password()),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	if dial != nil {
		opts = append(opts, gomail.WithDialContextFunc(dial))
	}
	c, err := gomail.NewClient(s.cfg.Host, opts...)
	if err != nil {
		return nil, fmt.Errorf("smtp: %w", err)
	}
	return c, nil
}

func (s *smtpMailer) tlsConfig() *tls.Config {
	return &tls.Config{ServerName: s.cfg.Host, RootCAs: s.cfg.RootCAs, MinVersion: tls.VersionTLS12}
}

func (s *smtpMailer) send(ctx context.Context, it item, m Mail) error {
	msg, err := compose(s.from, it, m, gomail.EncodingQP)
	if err != nil {
		return err
	}
	var conn net.Conn
	client, err := s.client(func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, dialErr := (&net.Dialer{}).DialContext(ctx, network, addr)
		if dialErr != nil {
			return nil, dialErr
		}
		conn = c
		if s.cfg.TLS != TLSImplicit {
			return c, nil
		}
		t := tls.Client(c, s.tlsConfig())
		return t, t.HandshakeContext(ctx)
	})
	if err != nil {
		return err
	}
	defer func() {
		if conn != nil {
			_ = conn.Close() // the library leaves it open when a greeting fails
		}
	}()
	c, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return ErrMail.WithCause(s.clean(err, m))
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err = client.SendWithSMTPClient(c, msg)
	_ = client.CloseWithSMTPClient(c)
	if err == nil || msg.IsDelivered() {
		return nil
	}
	if se, ok := errors.AsType[*gomail.SendError](err); ok && se.Reason == gomail.ErrSMTPRcptTo && !se.IsTemp() && se.ErrorCode() >= 500 {
		return ErrRejected.WithCause(s.clean(err, m))
	}
	return ErrMail.WithCause(s.clean(err, m))
}

// clean takes the recipient and the password out of what a server or the library said.
func (s *smtpMailer) clean(err error, m Mail) error {
	text := err.Error()
	if to, e := parseAddress(m.To); e == nil {
		text = strings.ReplaceAll(text, to.Address, "[recipient]")
	}
	if s.cfg.Password != nil && s.cfg.Password() != "" {
		text = strings.ReplaceAll(text, s.cfg.Password(), "[redacted]")
	}
	return errors.New(oneLine(text, maxErrLen))
}
