-- An entity's versions follow each other, whoever writes them.

-- +goose Up
-- +goose StatementBegin
-- events_follow refuses an event whose version does not follow one that is there: a hole would stay for good. The first
-- version may have nothing after it but the second, which old versions that retention removed leave open.
CREATE FUNCTION events_follow() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM events e WHERE e.aggregate_type = NEW.aggregate_type AND e.aggregate_id = NEW.aggregate_id
               AND e.version = CASE NEW.version WHEN 1 THEN 2 ELSE NEW.version - 1 END) THEN
        RETURN NULL;
    END IF;
    IF NEW.version = 1 AND NOT EXISTS (SELECT FROM events e WHERE e.aggregate_type = NEW.aggregate_type
                                       AND e.aggregate_id = NEW.aggregate_id AND e.version > 1) THEN
        RETURN NULL;
    END IF;
    RAISE check_violation USING TABLE = 'events', CONSTRAINT = 'events_follow',
        MESSAGE = format('version %s of %s:%s does not follow the one before it', NEW.version, NEW.aggregate_type, NEW.aggregate_id),
        HINT = 'Append with rootstream event append, or write to event_log: both number by themselves.';
END
$$;
-- +goose StatementEnd
-- Looking for what is before it makes an insert dearer by a third. Statements that number under the shard's lock need not be
-- looked at: they say so (rootstream.numbered) for their transaction, of which they are the last.
CREATE TRIGGER events_follow AFTER INSERT OR UPDATE OF aggregate_type, aggregate_id, version ON events FOR EACH ROW
    WHEN (current_setting('rootstream.numbered', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION events_follow();
