-- What must be sent: written in the transaction that decides it, sent by whoever claims it first.

-- +goose Up
CREATE TABLE outbox (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    channel      text NOT NULL CONSTRAINT outbox_channel CHECK (channel IN ('mail', 'webhook')),
    topic        text NOT NULL,
    payload      jsonb NOT NULL DEFAULT '{}',
    target       text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    next_try_at  timestamptz NOT NULL DEFAULT now(),
    tries        integer NOT NULL DEFAULT 0,
    last_error   text,
    sent_at      timestamptz,
    abandoned_at timestamptz
);
CREATE INDEX outbox_due_idx ON outbox (next_try_at) WHERE sent_at IS NULL AND abandoned_at IS NULL;
CREATE INDEX outbox_sent_idx ON outbox (created_at) WHERE sent_at IS NOT NULL OR abandoned_at IS NOT NULL;
