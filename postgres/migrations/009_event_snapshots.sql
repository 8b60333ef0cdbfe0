-- States of entities as their events left them, and from where on the log is complete.

-- +goose Up
CREATE TABLE event_snapshots (
    aggregate_type text NOT NULL,
    aggregate_id   uuid NOT NULL,
    version        bigint NOT NULL CONSTRAINT event_snapshots_version CHECK (version > 0),
    fold           smallint NOT NULL,
    codec          smallint NOT NULL,
    sha256         bytea NOT NULL,
    state          bytea NOT NULL,
    at             timestamptz NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, version, fold)
);
ALTER TABLE event_snapshots ALTER COLUMN state SET STORAGE EXTERNAL; -- it is compressed already
COMMENT ON COLUMN event_snapshots.fold IS 'version of the function that made the state from the events';
COMMENT ON COLUMN event_snapshots.at IS 'when the last of those events was appended';

CREATE TABLE event_horizon (
    shard smallint PRIMARY KEY,
    seq   bigint NOT NULL
);
COMMENT ON TABLE event_horizon IS 'the shard has every event from seq on; without a row it has all';
