-- What instances do for state sync once, whichever of them comes first.

-- +goose Up
-- What was erased, until every snapshot of all state has been rewritten without it.
CREATE TABLE sync_erasures (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate_type text NOT NULL,
    aggregate_id   uuid NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE sync_snapshots ADD COLUMN erased bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN sync_snapshots.erased IS 'the last of sync_erasures that its content has heeded';

-- When the last snapshot on schedule was begun.
CREATE TABLE sync_schedule (
    one boolean PRIMARY KEY DEFAULT true CONSTRAINT sync_schedule_one CHECK (one),
    at  timestamptz NOT NULL
);
INSERT INTO sync_schedule (at) VALUES ('-infinity');
