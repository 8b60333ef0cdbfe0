-- Writers of the log may believe what they know of it for as long as nobody rewrites it.

-- +goose Up
CREATE TABLE event_rewrites (
    one   boolean PRIMARY KEY DEFAULT true CONSTRAINT event_rewrites_one CHECK (one),
    token uuid NOT NULL DEFAULT gen_random_uuid()
);
COMMENT ON COLUMN event_rewrites.token IS 'another one whenever events were removed, moved or numbered anew: what a writer knew before is void';
INSERT INTO event_rewrites DEFAULT VALUES;

-- +goose StatementBegin
-- An event that is added is seen at the end of its shard, or meets the unique index; what happens before the end is not.
CREATE FUNCTION event_rewritten() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE event_rewrites SET token = gen_random_uuid();
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER events_rewritten AFTER DELETE OR TRUNCATE OR UPDATE OF shard, seq, aggregate_type, aggregate_id, version ON events
    FOR EACH STATEMENT EXECUTE FUNCTION event_rewritten();
-- Also in sessions with session_replication_role = replica, as tools have them that load data.
ALTER TABLE events ENABLE ALWAYS TRIGGER events_rewritten;
