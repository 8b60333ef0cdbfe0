package app

import (
	"context"
	"fmt"

	"rootstream/app/config"
	"rootstream/event"
	"rootstream/postgres"
)

// Migration is one step of the schema.
type Migration = postgres.Migration

// Migrate brings the schema up to date and imports what 24.2's event_log holds.
func Migrate(ctx context.Context, cfg config.Config, rolling bool) ([]Migration, error) {
	if cfg.Postgres.DSN.IsZero() {
		return nil, config.ErrNoDatabase
	}
	steps, err := postgres.Migrate(ctx, cfg.Postgres.DSN.Reveal(),
		postgres.MigrateOptions{Rolling: rolling, LegacyTimezone: cfg.Postgres.LegacyTimezone})
	if err != nil {
		return nil, err
	}
	db, err := openPostgres(ctx, cfg, nil, nil)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if _, err := (event.Importer{DB: db}).Import(ctx); err != nil {
		return nil, fmt.Errorf("after migrating: %w", err)
	}
	return steps, nil
}

// MigrationStatus lists all steps of the schema, applied or not.
func MigrationStatus(ctx context.Context, cfg config.Config) ([]Migration, error) {
	if cfg.Postgres.DSN.IsZero() {
		return nil, config.ErrNoDatabase
	}
	return postgres.MigrationStatus(ctx, cfg.Postgres.DSN.Reveal())
}
