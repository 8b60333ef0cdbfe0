package app

import (
	"context"
	"time"
)

// RelayWebhooks puts the events that are there now into the outbox.
func (p *Parts) RelayWebhooks(ctx context.Context) error {
	_, err := p.webhookRelay().Consume(ctx)
	return err
}

// DataDirOf is the default data folder of a user.
func DataDirOf(uid int, state, home string) string { return dataDirOf(uid, state, home) }

// DoctorAt is Doctor at another time.
func DoctorAt(ctx context.Context, o DoctorOptions, now time.Time) []Finding {
	return doctor(ctx, o, now)
}
