package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Direct sends at once, without outbox and database: for what people must be
// told just then when the database is gone. Repeating a failure is the caller's.
type Direct struct {
	mail    mailer // nil: mail is off
	hooks   *hooks
	timeout time.Duration
}

// NewDirect prepares sending as cfg says; of it, Mail, Webhooks and SendTimeout count.
func NewDirect(cfg Config) (*Direct, error) {
	cfg = cfg.withDefaults()
	m, mailErr := newMailer(cfg.Mail)
	h, hookErr := newHooks(cfg.Webhooks)
	if err := errors.Join(mailErr, hookErr); err != nil {
		return nil, err
	}
	return &Direct{mail: m, hooks: h, timeout: cfg.SendTimeout}, nil
}

// Mail sends one mail.
func (d *Direct) Mail(ctx context.Context, topic string, m Mail) error {
	if d.mail == nil {
		return ErrMail.WithCause(errors.New("no mail server is configured"))
	}
	it, err := newItem(Message{Channel: ChannelMail, Topic: topic, Target: m.To})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	return d.mail.send(ctx, it, m)
}

// Webhook posts to the endpoint of a name.
func (d *Direct) Webhook(ctx context.Context, topic, endpoint string, payload any) error {
	it, err := newItem(Message{Channel: ChannelWebhook, Topic: topic, Target: endpoint, Payload: payload})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	return d.hooks.send(ctx, it)
}

// newItem is a message as if it came out of the outbox.
func newItem(m Message) (item, error) {
	r, err := m.row()
	if err != nil {
		return item{}, fmt.Errorf("send %s: %w", m.Topic, err)
	}
	return item{id: r.id, topic: m.Topic, target: m.Target, payload: json.RawMessage(r.payload), createdAt: time.Now().UTC(), tries: 1}, nil
}
