-- State shared by all instances: which history it follows, what was decided between two changes, snapshots.

-- +goose Up

-- A new epoch begins when the database has lost commits that instances had already seen.
CREATE TABLE sync_epoch (
    one    boolean PRIMARY KEY DEFAULT true CONSTRAINT sync_epoch_one CHECK (one),
    epoch  bigint NOT NULL CONSTRAINT sync_epoch_positive CHECK (epoch > 0),
    since  timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL
);
INSERT INTO sync_epoch (epoch, reason) VALUES (1, 'created');

-- Tells the lives of an instance apart, whatever clocks say.
CREATE SEQUENCE sync_incarnation;

CREATE TABLE sync_conflicts (
    id             uuid PRIMARY KEY,
    aggregate_type text NOT NULL,
    aggregate_id   uuid NOT NULL,
    rule           text NOT NULL,
    winner         jsonb,
    loser          jsonb,
    stamps         jsonb NOT NULL DEFAULT '{}',
    vectors        jsonb NOT NULL DEFAULT '{}',
    token          text NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at    timestamptz,
    resolved_by    uuid,
    CONSTRAINT sync_conflicts_key UNIQUE (rule, token)
);
CREATE INDEX sync_conflicts_entity_idx ON sync_conflicts (aggregate_type, aggregate_id, id);
CREATE INDEX sync_conflicts_open_idx ON sync_conflicts (id) WHERE resolved_at IS NULL;
COMMENT ON COLUMN sync_conflicts.token IS 'what the decision was about; the same one is recorded once';

CREATE TABLE sync_snapshots (
    id       uuid PRIMARY KEY,
    kind     text NOT NULL CONSTRAINT sync_snapshots_kind CHECK (kind IN ('full', 'delta')),
    base     uuid REFERENCES sync_snapshots (id) ON DELETE CASCADE,
    epoch    bigint NOT NULL,
    vector   bigint[] NOT NULL CONSTRAINT sync_snapshots_vector CHECK (cardinality(vector) = 16),
    entities integer NOT NULL,
    sha256   bytea NOT NULL,
    content  bytea NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT sync_snapshots_base CHECK ((kind = 'delta') = (base IS NOT NULL))
);
CREATE INDEX sync_snapshots_at_idx ON sync_snapshots (at DESC);
ALTER TABLE sync_snapshots ALTER COLUMN content SET STORAGE EXTERNAL; -- compressed already
