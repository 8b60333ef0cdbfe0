-- The point of no return: plain session tokens and stream keys of Phase 24.2 are overwritten by their hashes.
-- From here on a 24.2 writer's own look-ups by token or key find nothing.

-- +goose Up
SELECT migration_lock('sessions', 'streams');

-- +goose StatementBegin
CREATE FUNCTION sessions_scrub() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.session_token := 'h1:' || encode(NEW.token_hash, 'hex');
    RETURN NEW;
END
$$;
-- +goose StatementEnd
-- Triggers fire in order of name: this one after sessions_adopt has hashed.
CREATE TRIGGER sessions_scrub BEFORE INSERT OR UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION sessions_scrub();

-- +goose StatementBegin
CREATE FUNCTION streams_scrub() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF length(NEW.stream_key) >= 8 AND NEW.stream_key NOT LIKE 'h1:%' THEN
        NEW.stream_url := left(replace(NEW.stream_url, NEW.stream_key, '{stream_key}'), 512);
        NEW.thumbnail_url := left(replace(NEW.thumbnail_url, NEW.stream_key, '{stream_key}'), 512);
    END IF;
    NEW.stream_key := 'h1:' || encode(NEW.stream_key_hash, 'hex');
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER streams_scrub BEFORE INSERT OR UPDATE ON streams
    FOR EACH ROW EXECUTE FUNCTION streams_scrub();

-- A file's path is left alone, since the file is really there: whoever put keys into paths hears of it.
INSERT INTO adoption_findings (kind, found_in, row_id, detail)
SELECT 'key_in_path', 'recordings', r.id, 'the file''s path holds the stream''s key'
FROM recordings r JOIN streams s ON s.id = r.stream_id
WHERE length(s.stream_key) >= 8 AND position(s.stream_key IN r.file_path) > 0
UNION ALL
SELECT 'key_in_path', 'stream_sessions', r.id, 'the recording''s path holds the stream''s key'
FROM stream_sessions r JOIN streams s ON s.id = r.stream_id
WHERE length(s.stream_key) >= 8 AND position(s.stream_key IN r.recording_path) > 0;

-- A rewrite, not an UPDATE: no dead row keeps what was overwritten, and no trigger sets updated_at.
ALTER TABLE sessions ALTER COLUMN session_token TYPE varchar(512) USING 'h1:' || encode(token_hash, 'hex');
ALTER TABLE streams
    ALTER COLUMN stream_url TYPE varchar(512) USING CASE WHEN length(stream_key) >= 8
        THEN left(replace(stream_url, stream_key, '{stream_key}'), 512) ELSE stream_url END,
    ALTER COLUMN thumbnail_url TYPE varchar(512) USING CASE WHEN length(stream_key) >= 8
        THEN left(replace(thumbnail_url, stream_key, '{stream_key}'), 512) ELSE thumbnail_url END,
    ALTER COLUMN stream_key TYPE varchar(512) USING 'h1:' || encode(stream_key_hash, 'hex');
ANALYZE sessions;
ANALYZE streams;
