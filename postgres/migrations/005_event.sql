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

-- Which entity 24.2's (type, number) became. It is decided once: an event that an old writer logs after its user
-- was deleted still belongs to that user's history.
CREATE TABLE event_log_entities (
    aggregate_type text NOT NULL,
    aggregate_id   integer NOT NULL,
    entity         uuid NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
);

-- +goose StatementBegin
-- event_shard spreads entities over 16 shards by the last four bits of their id.
CREATE FUNCTION event_shard(entity uuid) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (get_byte(uuid_send(entity), 15) & 15)::smallint $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- import_event_log copies up to batch rows of 24.2's event_log and returns how many. Versions that
-- repeated or were missing get new, contiguous ones in the order of insertion, which the repeated hour of
-- daylight saving does not disturb; event_log itself stays as it was.
CREATE FUNCTION import_event_log(batch integer) RETURNS integer LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    due bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock(7205, 16); -- one import at a time
    -- The rows before the shards: whoever deletes a user updates its rows here and appends an event afterwards.
    due := ARRAY(SELECT id FROM event_log WHERE imported_at IS NULL ORDER BY id LIMIT batch FOR NO KEY UPDATE SKIP LOCKED);
    IF due = '{}' THEN
        RETURN 0;
    END IF;

    INSERT INTO event_log_entities (aggregate_type, aggregate_id, entity)
    SELECT a.kind, a.number,
           coalesce(u.public_id, st.public_id, se.public_id, -- what is gone gets an id made from its number (UUID version 8)
                    overlay(overlay(md5('24.2:' || a.kind || ':' || a.number) PLACING '8' FROM 13) PLACING '8' FROM 17)::uuid)
    FROM (SELECT DISTINCT lower(coalesce(nullif(aggregate_type, ''), 'unknown')) AS kind, coalesce(aggregate_id, 0) AS number
          FROM event_log WHERE id = ANY (due)) a
    LEFT JOIN users u ON a.kind = 'user' AND u.id = a.number
    LEFT JOIN streams st ON a.kind = 'stream' AND st.id = a.number
    LEFT JOIN sessions se ON a.kind = 'session' AND se.id = a.number
    ON CONFLICT DO NOTHING;

    FOR s IN 0..15 LOOP
        PERFORM pg_advisory_xact_lock(7205, s);
    END LOOP;
    WITH known AS (
        SELECT l.*, m.aggregate_type AS kind, m.entity, event_shard(m.entity) AS on_shard, w.public_id AS who
        FROM event_log l
        JOIN event_log_entities m ON m.aggregate_type = lower(coalesce(nullif(l.aggregate_type, ''), 'unknown'))
                                 AND m.aggregate_id = coalesce(l.aggregate_id, 0)
        LEFT JOIN users w ON w.id = l.user_id
        WHERE l.id = ANY (due)
    ), versions AS (
        SELECT k.kind, k.entity, (SELECT coalesce(max(e.version), 0) FROM events e
                                  WHERE e.aggregate_type = k.kind AND e.aggregate_id = k.entity) AS newest
        FROM (SELECT DISTINCT kind, entity FROM known) k
    ), seqs AS (
        SELECT s::smallint AS on_shard, (SELECT coalesce(max(e.seq), 0) FROM events e WHERE e.shard = s) AS newest
        FROM generate_series(0, 15) s
    ), numbered AS (
        SELECT k.*, v.newest + row_number() OVER (PARTITION BY k.kind, k.entity ORDER BY k.id) AS new_version,
               q.newest + row_number() OVER (PARTITION BY k.on_shard ORDER BY k.id) AS new_seq
        FROM known k JOIN versions v USING (kind, entity) JOIN seqs q USING (on_shard)
    ), put AS (
        INSERT INTO events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id, at, legacy_id)
        SELECT n.on_shard, n.new_seq, n.kind, n.entity, n.new_version, coalesce(nullif(n.event_type, ''), 'unknown'),
               n.event_data, n.who, coalesce(n.timestamp, now()), n.id
        FROM numbered n
    ), told AS (
        INSERT INTO adoption_findings (kind, found_in, row_id, detail)
        SELECT 'event_version', 'event_log', n.id,
               format('version %s became %s', coalesce(n.version::text, 'null'), n.new_version)
        FROM numbered n WHERE n.version IS DISTINCT FROM n.new_version ORDER BY n.id
    )
    UPDATE event_log SET imported_at = now() WHERE id = ANY (due);
    RETURN cardinality(due);
END
$$;
-- +goose StatementEnd
