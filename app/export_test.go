package app

import (
	"context"
)

// RelayWebhooks puts the events that are there now into the outbox.
func (p *Parts) RelayWebhooks(ctx context.Context) error {
	_, err := p.webhookRelay().Consume(ctx)
	return err
}

// AskForBackup does what the API does.
func (p *Parts) AskForBackup(ctx context.Context, kind, by string) error {
	return p.backups().RunNow(ctx, kind, by)
}
