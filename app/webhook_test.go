package app_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rootstream/app"
	"rootstream/app/config"
	"rootstream/postgres/postgrestest"
	"rootstream/secret"
)

func TestAnEventThatCannotBeSentHoldsNoOtherUp(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	cfg, err := config.Load(config.Source{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Postgres.DSN = secret.FromString(postgrestest.DSN(t))
	cfg.Webhooks = []config.Webhook{{
		URL: "https://hooks.example.org/in", Secrets: []secret.Secret{secret.FromString("whsec_" + strings.Repeat("QUJD", 8))},
	}}
	p, err := app.Open(t.Context(), cfg, app.Options{Stderr: &logged, OneShot: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err = p.RelayWebhooks(t.Context()); err != nil { // it begins at the end of the log
		t.Fatal(err)
	}
	// One entity, so one shard: an event as Phase 24.2 may have named it, one that is too large, and a good one.
	_, err = p.DB.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data)
		select event_shard($1), n, 'stream', $1, n, (array['Odd Name!', 'stream.updated', 'stream.started'])[n],
			jsonb_build_object('x', repeat('x', case n when 2 then 70000 else 1 end)) from generate_series(1, 3) n`, uuid.New())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.RelayWebhooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	var topics string
	if err := p.DB.QueryRow(t.Context(), `select coalesce(string_agg(topic, ' '), '') from outbox`).Scan(&topics); err != nil || topics != "stream.started" {
		t.Errorf("in the outbox: %q, %v", topics, err)
	}
	if n := strings.Count(logged.String(), "cannot be sent to webhooks"); n != 2 {
		t.Errorf("%d events were said to be left out, want 2:\n%s", n, logged.String())
	}
}
