-- The event log: gapless numbers a shard, contiguous versions an entity.

-- +goose Up
CREATE TABLE events (
    shard           smallint NOT NULL CONSTRAINT events_shard CHECK (shard BETWEEN 0 AND 15),
    seq             bigint NOT NULL,
    aggregate_type  text NOT NULL,
    aggregate_id    uuid NOT NULL,
    version         bigint NOT NULL CONSTRAINT events_version CHECK (version > 0),
    name            text NOT NULL,
    data            jsonb NOT NULL DEFAULT '{}',
    user_id         uuid,
    actor_id        uuid,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    idempotency_key text,
    legacy_id       bigint,
    PRIMARY KEY (shard, seq),
    CONSTRAINT events_version_key UNIQUE (aggregate_type, aggregate_id, version)
);
CREATE INDEX events_user_idx ON events (user_id, at DESC) WHERE user_id IS NOT NULL;
CREATE INDEX events_at_idx ON events USING brin (at);
CREATE UNIQUE INDEX events_idempotency_key ON events (idempotency_key) WHERE idempotency_key IS NOT NULL;
COMMENT ON COLUMN events.user_id IS 'whose audit trail the event belongs to (users.public_id)';
COMMENT ON COLUMN events.actor_id IS 'who did it, where that is somebody else';

ALTER TABLE event_log ADD COLUMN imported_at timestamptz;
CREATE INDEX event_log_pending_idx ON event_log (id) WHERE imported_at IS NULL;

-- +goose StatementBegin
-- event_shard spreads entities over 16 shards by the last four bits of their id.
CREATE FUNCTION event_shard(entity uuid) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (get_byte(uuid_send(entity), 15) & 15)::smallint $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- import_event_log copies up to batch rows of 24.2's event_log and returns how many. Versions that
-- repeated or were missing get new, contiguous ones in order of time; event_log itself stays as it was.
CREATE FUNCTION import_event_log(batch integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    done integer;
BEGIN
    FOR s IN 0..15 LOOP
        PERFORM pg_advisory_xact_lock(7205, s);
    END LOOP;
    WITH due AS (
        SELECT l.* FROM event_log l WHERE l.imported_at IS NULL
        ORDER BY l.timestamp NULLS FIRST, l.id LIMIT batch
    ), known AS (
        SELECT d.*, lower(coalesce(nullif(d.aggregate_type, ''), 'unknown')) AS kind,
               coalesce(u.public_id, st.public_id, se.public_id,
                        md5('24.2:' || coalesce(d.aggregate_type, '') || ':' || coalesce(d.aggregate_id::text, ''))::uuid) AS entity,
               w.public_id AS who
        FROM due d
        LEFT JOIN users u ON lower(d.aggregate_type) = 'user' AND u.id = d.aggregate_id
        LEFT JOIN streams st ON lower(d.aggregate_type) = 'stream' AND st.id = d.aggregate_id
        LEFT JOIN sessions se ON lower(d.aggregate_type) = 'session' AND se.id = d.aggregate_id
        LEFT JOIN users w ON w.id = d.user_id
    ), numbered AS (
        SELECT k.*, event_shard(k.entity) AS on_shard,
               coalesce((SELECT max(e.version) FROM events e WHERE e.aggregate_type = k.kind AND e.aggregate_id = k.entity), 0)
               + row_number() OVER (PARTITION BY k.kind, k.entity ORDER BY k.timestamp NULLS FIRST, k.id) AS new_version
        FROM known k
    ), put AS (
        INSERT INTO events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, at, legacy_id)
        SELECT n.on_shard,
               coalesce((SELECT max(e.seq) FROM events e WHERE e.shard = n.on_shard), 0)
               + row_number() OVER (PARTITION BY n.on_shard ORDER BY n.timestamp NULLS FIRST, n.id),
               n.kind, n.entity, n.new_version, coalesce(nullif(n.event_type, ''), 'unknown'), n.event_data, n.who,
               coalesce(n.timestamp, now()), n.id
        FROM numbered n
    ), told AS (
        INSERT INTO adoption_findings (kind, found_in, row_id, detail)
        SELECT 'event_version', 'event_log', n.id,
               format('version %s became %s', coalesce(n.version::text, 'null'), n.new_version)
        FROM numbered n WHERE n.version IS DISTINCT FROM n.new_version
    )
    UPDATE event_log l SET imported_at = now() FROM due WHERE l.id = due.id;
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END
$$;
-- +goose StatementEnd
