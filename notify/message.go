package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/postgres"
)

// Channel is the way a message travels.
type Channel string

// The channels.
const (
	ChannelMail    Channel = "mail"
	ChannelWebhook Channel = "webhook"
)

// Message is what is put into the outbox. It rests there for days: no secrets.
type Message struct {
	Channel Channel
	Topic   string // says what happened: user.verify_email
	Payload any    // JSON; what the renderer needs, or a webhook's data; nil means {}
	Target  string // mail: the address, empty where the renderer finds it; webhook: the endpoint's name
}

// ErrBadMessage is a message that could never be sent.
var ErrBadMessage = errs.New(errs.Internal, "bad_message", "the message cannot be put into the outbox")

const maxPayload = 64 << 10

var topicPattern = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z0-9_]+){0,5}$`)

// row is a message ready to be written.
type row struct {
	id      uuid.UUID
	message Message
	payload []byte
}

func (m Message) row() (row, error) {
	switch {
	case m.Channel != ChannelMail && m.Channel != ChannelWebhook:
		return row{}, ErrBadMessage.WithCause(fmt.Errorf("channel %q is not known", m.Channel))
	case !topicPattern.MatchString(m.Topic) || len(m.Topic) > 100:
		return row{}, ErrBadMessage.WithCause(fmt.Errorf("topic %q is not lower-case words with dots", m.Topic))
	case m.Channel == ChannelWebhook && m.Target == "":
		return row{}, ErrBadMessage.WithCause(fmt.Errorf("%s names no endpoint", m.Topic))
	}
	if m.Channel == ChannelMail && m.Target != "" {
		if _, err := parseAddress(m.Target); err != nil {
			return row{}, ErrBadMessage.WithCause(err)
		}
	}
	payload := []byte("{}")
	if m.Payload != nil {
		var err error
		if payload, err = json.Marshal(m.Payload); err != nil {
			return row{}, ErrBadMessage.WithCause(err)
		}
	}
	if len(payload) > maxPayload || bytes.Contains(payload, []byte(`\u0000`)) {
		return row{}, ErrBadMessage.WithCause(fmt.Errorf("the payload of %s is longer than %d bytes or holds a NUL", m.Topic, maxPayload))
	}
	id, err := uuid.NewV7()
	if err != nil {
		return row{}, fmt.Errorf("draw a message id: %w", err)
	}
	return row{id: id, message: m, payload: payload}, nil
}

// batch collects the messages of one transaction.
type batch struct{ rows []row }

type batchKey struct{}

// Enqueue puts a message into the outbox as one of the last statements of tx.
// Senders find it within their poll interval; see [Sender.Enqueue] for sooner.
func Enqueue(tx *postgres.Tx, m Message) error {
	r, err := m.row()
	if err != nil {
		return err
	}
	b, _ := tx.Value(batchKey{}).(*batch)
	if b == nil {
		b = &batch{}
		tx.SetValue(batchKey{}, b)
		tx.BeforeCommit(func(ctx context.Context) error {
			tx.SetValue(batchKey{}, nil) // what comes after this needs a hook of its own
			return b.insert(ctx, tx)
		})
	}
	b.rows = append(b.rows, r)
	return nil
}

func (b *batch) insert(ctx context.Context, tx *postgres.Tx) error {
	all := &pgx.Batch{}
	for _, r := range b.rows {
		all.Queue(`insert into outbox (id, channel, topic, payload, target) values ($1, $2, $3, $4::jsonb, $5)`,
			r.id.String(), string(r.message.Channel), r.message.Topic, string(r.payload), r.message.Target)
	}
	if err := tx.SendLast(ctx, all); err != nil {
		return fmt.Errorf("enqueue %s: %w", b.rows[0].message.Topic, err)
	}
	return nil
}
