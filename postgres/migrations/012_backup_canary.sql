-- +goose Up
-- What a test of a restore plants before it restores, and has to find afterwards: at most one row per test of the last day.
CREATE TABLE backup_canary (
    id         uuid PRIMARY KEY,
    planted_at timestamptz NOT NULL DEFAULT now()
);
