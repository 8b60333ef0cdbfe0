-- The point of no return: plain session tokens and stream keys of Phase 24.2 are overwritten by their hashes.
-- From here on a 24.2 writer's own look-ups by token or key find nothing.

-- +goose NO TRANSACTION
-- +goose Up
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION sessions_scrub() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.session_token NOT LIKE 'h1:%' OR length(NEW.session_token) <> 67 THEN
        NEW.session_token := 'h1:' || encode(NEW.token_hash, 'hex');
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
DROP TRIGGER IF EXISTS sessions_scrub ON sessions;
-- Triggers fire in order of name: this one after sessions_adopt has hashed.
CREATE TRIGGER sessions_scrub BEFORE INSERT OR UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION sessions_scrub();

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION streams_scrub() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.stream_key NOT LIKE 'h1:%' OR length(NEW.stream_key) <> 67 THEN
        NEW.stream_key := 'h1:' || encode(NEW.stream_key_hash, 'hex');
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
DROP TRIGGER IF EXISTS streams_scrub ON streams;
CREATE TRIGGER streams_scrub BEFORE INSERT OR UPDATE ON streams
    FOR EACH ROW EXECUTE FUNCTION streams_scrub();

-- +goose StatementBegin
DO $$
DECLARE
    moved integer;
BEGIN
    LOOP
        UPDATE sessions SET session_token = 'h1:' || encode(token_hash, 'hex')
        WHERE id IN (SELECT id FROM sessions
                     WHERE session_token NOT LIKE 'h1:%' OR length(session_token) <> 67 LIMIT 5000);
        GET DIAGNOSTICS moved = ROW_COUNT;
        COMMIT;
        EXIT WHEN moved = 0;
    END LOOP;
    LOOP
        UPDATE streams SET stream_key = 'h1:' || encode(stream_key_hash, 'hex')
        WHERE id IN (SELECT id FROM streams
                     WHERE stream_key NOT LIKE 'h1:%' OR length(stream_key) <> 67 LIMIT 5000);
        GET DIAGNOSTICS moved = ROW_COUNT;
        COMMIT;
        EXIT WHEN moved = 0;
    END LOOP;
END
$$;
-- +goose StatementEnd
-- Dead row versions still hold what was overwritten.
VACUUM sessions;
VACUUM streams;
