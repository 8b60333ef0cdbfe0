package app

import (
	"context"
	"errors"
	"path"
	"slices"

	"rootstream/app/config"
	"rootstream/event"
	"rootstream/notify"
	"rootstream/postgres"
)

// webhookRelay puts every event that a receiver wants into the outbox, once,
// whichever instance does it.
func (p *Parts) webhookRelay() event.Consumer {
	return event.Consumer{DB: p.DB, Name: "webhook", Logger: p.Log, Handle: func(ctx context.Context, tx *postgres.Tx, events []event.Event) error {
		for _, e := range events {
			for _, w := range p.Config.Webhooks {
				if !wants(w, e.Name) {
					continue
				}
				m := notify.Message{Channel: notify.ChannelWebhook, Topic: e.Name, Payload: e, Target: w.URL}
				err := p.Sender.Enqueue(tx, m)
				if errors.Is(err, notify.ErrBadMessage) { // it never could be sent: what follows must not wait for it
					p.Log.ErrorContext(ctx, "an event cannot be sent to webhooks, it is left out",
						"event", e.Name, "shard", e.Shard, "seq", e.Seq, "webhook", w.URL, "err", err)
					continue
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}}
}

// wants reports whether a receiver asked for events of this name.
func wants(w config.Webhook, name string) bool {
	return len(w.Topics) == 0 || slices.ContainsFunc(w.Topics, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}
