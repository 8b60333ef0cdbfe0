-- How far each durable consumer of the log has come, a shard.

-- +goose Up
CREATE TABLE event_cursors (
    consumer text NOT NULL,
    shard    smallint NOT NULL,
    seq      bigint NOT NULL,
    PRIMARY KEY (consumer, shard)
);
