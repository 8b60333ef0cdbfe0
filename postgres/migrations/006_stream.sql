-- Streams: public ids, hashed keys. Expands only.

-- +goose Up
SELECT migration_lock('recordings', 'stream_sessions', 'streams');

-- Filled by a rewrite, not by an UPDATE, which would set every updated_at to today.
ALTER TABLE streams ADD COLUMN public_id uuid NOT NULL DEFAULT gen_random_uuid(), ADD COLUMN stream_key_hash bytea;
ALTER TABLE streams
    ALTER COLUMN stream_key_hash TYPE bytea USING sha256(convert_to(stream_key, 'UTF8')),
    ALTER COLUMN stream_key_hash SET NOT NULL;
CREATE UNIQUE INDEX streams_public_id_key ON streams (public_id);
CREATE UNIQUE INDEX streams_stream_key_hash_key ON streams (stream_key_hash);

ALTER TABLE stream_sessions ADD COLUMN public_id uuid NOT NULL DEFAULT gen_random_uuid();
CREATE UNIQUE INDEX stream_sessions_public_id_key ON stream_sessions (public_id);
CREATE UNIQUE INDEX stream_sessions_open_idx ON stream_sessions (stream_id, id) WHERE session_end IS NULL;

ALTER TABLE recordings ADD COLUMN public_id uuid NOT NULL DEFAULT gen_random_uuid();
CREATE UNIQUE INDEX recordings_public_id_key ON recordings (public_id);

-- +goose StatementBegin
CREATE FUNCTION streams_adopt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A writer of Phase 24.2 knows stream_key only. 'h1:' and the hash is what stands there once it is scrubbed.
    IF NEW.stream_key_hash IS NULL OR (TG_OP = 'UPDATE' AND NEW.stream_key <> OLD.stream_key
                                       AND NEW.stream_key_hash = OLD.stream_key_hash
                                       AND NEW.stream_key <> 'h1:' || encode(NEW.stream_key_hash, 'hex')) THEN
        NEW.stream_key_hash := sha256(convert_to(NEW.stream_key, 'UTF8'));
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER streams_adopt BEFORE INSERT OR UPDATE ON streams
    FOR EACH ROW EXECUTE FUNCTION streams_adopt();
