package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rootstream/errs"
)

// Errors of webhooks.
var (
	ErrHookUnknown = errs.New(errs.Unavailable, "webhook_unknown", "no webhook endpoint of that name is configured")
	ErrHookGone    = errs.New(errs.Gone, "webhook_gone", "the receiver does not want this webhook any more")
	ErrHook        = errs.New(errs.Unavailable, "webhook_failed", "the webhook was not accepted")
	ErrHookPrivate = errs.New(errs.Forbidden, "webhook_private", "webhooks to private addresses are not allowed")
	ErrSignature   = errs.New(errs.Unauthenticated, "webhook_signature", "the webhook's signature does not fit")
)

const (
	secretPrefix     = "whsec_"
	maxHookResponse  = 4 << 10          // bytes read of an answer
	signatureMaxSkew = 5 * time.Minute  // between a webhook's timestamp and its receiver's clock
	hookDialTimeout  = 5 * time.Second  // and for the TLS handshake
	hookIdleTimeout  = 60 * time.Second // of a kept connection
)

// hooks posts webhooks.
type hooks struct {
	endpoints map[string]Endpoint
	client    *http.Client
}

func newHooks(cfg WebhookConfig) (*hooks, error) {
	var faults []error
	for name, e := range cfg.Endpoints {
		u, err := url.Parse(e.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			faults = append(faults, fmt.Errorf("webhook %s: the URL must be http(s)://host/… without credentials", name))
		}
		if len(e.Secrets) == 0 {
			faults = append(faults, fmt.Errorf("webhook %s: it has no secret", name))
		}
		for _, s := range e.Secrets {
			if _, err := decodeSecret(s()); err != nil {
				faults = append(faults, fmt.Errorf("webhook %s: %w", name, err))
			}
		}
	}
	dialer := &net.Dialer{Timeout: hookDialTimeout}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: hookDialTimeout,
		ForceAttemptHTTP2: true, MaxIdleConns: 16, MaxIdleConnsPerHost: 2, IdleConnTimeout: hookIdleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if cfg.DenyPrivate {
		transport.Proxy = nil // a proxy would resolve the name out of our sight
		dialer.Control = publicOnly
	}
	return &hooks{
		endpoints: cfg.Endpoints,
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, errors.Join(faults...)
}

// publicOnly looks at the address that is really dialled, after the name was resolved.
func publicOnly(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !isPublic(ap.Addr().Unmap()) {
		return ErrHookPrivate
	}
	return nil
}

func isPublic(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	// Shared, protocol, benchmark, reserved and documentation ranges, and those that embed an IPv4 address.
	for _, p := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"192.88.99.0/24", "203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23",
		"2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		if netip.MustParsePrefix(p).Contains(a) {
			return false
		}
	}
	return true
}

// send posts one webhook: 2xx is success, 410 the end, anything else a retry.
func (h *hooks) send(ctx context.Context, it item) error {
	e, ok := h.endpoints[it.target]
	if !ok {
		return ErrHookUnknown
	}
	body, err := json.Marshal(struct {
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}{it.topic, it.createdAt.UTC(), it.payload})
	if err != nil {
		return fmt.Errorf("write webhook: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("write webhook: %w", err)
	}
	at := time.Now()
	signature, err := e.sign(it.id.String(), at, body)
	if err != nil {
		return fmt.Errorf("sign webhook: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "RootStream")
	req.Header.Set("Webhook-Id", it.id.String())
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("Webhook-Signature", signature)
	resp, err := h.client.Do(req)
	if err != nil {
		return hookFault(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	_, _ = io.CopyN(io.Discard, resp.Body, maxHookResponse)
	return judge(resp)
}

func judge(resp *http.Response) error {
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusGone:
		return ErrHookGone
	}
	err := ErrHook.WithCause(fmt.Errorf("status %d", resp.StatusCode))
	if s, convErr := strconv.Atoi(resp.Header.Get("Retry-After")); convErr == nil && s > 0 {
		err = err.WithRetryAfter(min(time.Duration(s)*time.Second, maxRetryAfter))
	}
	return err
}

// hookFault drops the URL from a client error, since it may hold a token.
func hookFault(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if errors.Is(err, ErrHookPrivate) {
		return ErrHookPrivate
	}
	return ErrHook.WithCause(err)
}

// sign makes the header webhook-signature, one signature a secret.
func (e Endpoint) sign(id string, at time.Time, body []byte) (string, error) {
	var all []string
	for _, s := range e.Secrets {
		key, err := decodeSecret(s())
		if err != nil {
			return "", err
		}
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(signature(key, id, strconv.FormatInt(at.Unix(), 10), body)))
	}
	return strings.Join(all, " "), nil
}

func signature(key []byte, id, timestamp string, body []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + timestamp + "."))
	m.Write(body)
	return m.Sum(nil)
}

func decodeSecret(s string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, secretPrefix))
	if err != nil || !strings.HasPrefix(s, secretPrefix) || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("a secret must be whsec_ and the base64 of 24 to 64 bytes")
	}
	return key, nil
}

// NewWebhookSecret draws a secret for an [Endpoint].
func NewWebhookSecret() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// VerifyWebhook checks a received webhook as Standard Webhooks describes
// (https://www.standardwebhooks.com): any signature may fit, and the timestamp
// must be within five minutes of now. The receiver drops ids it has seen.
func VerifyWebhook(secret string, h http.Header, body []byte, now time.Time) error {
	key, err := decodeSecret(secret)
	if err != nil {
		return ErrSignature.WithCause(err)
	}
	stamp := h.Get("Webhook-Timestamp")
	unix, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || now.Sub(time.Unix(unix, 0)).Abs() > signatureMaxSkew {
		return ErrSignature.WithCause(errors.New("the timestamp is missing or too far away"))
	}
	want := signature(key, h.Get("Webhook-Id"), stamp, body)
	for part := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		version, sum, _ := strings.Cut(part, ",")
		got, err := base64.StdEncoding.DecodeString(sum)
		if err == nil && version == "v1" && hmac.Equal(got, want) {
			return nil
		}
	}
	return ErrSignature
}
