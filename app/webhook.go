package app

import (
	"context"
	"path"
	"slices"

	"rootstream/event"
	"rootstream/notify"
	"rootstream/postgres"
)

// webhookRelay puts every event that a receiver wants into the outbox, once,
// whichever instance does it.
func (p *Parts) webhookRelay() event.Consumer {
	return event.Consumer{DB: p.DB, Name: "webhook", Logger: p.Log, Handle: func(_ context.Context, tx *postgres.Tx, events []event.Event) error {
		for _, e := range events {
			for _, w := range p.Config.Webhooks {
				if !w.wants(e.Name) {
					continue
				}
				m := notify.Message{Channel: notify.ChannelWebhook, Topic: e.Name, Payload: e, Target: w.URL}
				if err := p.Sender.Enqueue(tx, m); err != nil {
					return err
				}
			}
		}
		return nil
	}}
}

// wants reports whether a receiver asked for events of this name.
func (w WebhookConfig) wants(name string) bool {
	return len(w.Topics) == 0 || slices.ContainsFunc(w.Topics, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}
