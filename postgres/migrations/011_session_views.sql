-- Replaced tokens hear of changes; two indexes. Expands only.

-- +goose Up
SELECT migration_lock('mfa_attempts', 'sessions');

-- +goose StatementBegin
-- As in 002, but a change that leaves the session alive is told of its replaced tokens as well: they are honoured a
-- little longer, with the role and assurance of now.
CREATE OR REPLACE FUNCTION sessions_invalidate() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    dead_from timestamptz;
BEGIN
    IF TG_OP = 'DELETE' THEN -- before it: afterwards its retired tokens are gone too
        INSERT INTO session_invalidations (token_hash, version, denied_from)
        SELECT OLD.token_hash, OLD.version + 1, clock_timestamp()
        UNION ALL
        SELECT token_hash, OLD.version + 1, clock_timestamp()
        FROM session_retired_tokens WHERE session_id = OLD.id AND valid_until > clock_timestamp();
        RETURN OLD;
    END IF;
    IF NEW.token_hash <> OLD.token_hash THEN
        -- The retired token may be honoured a little longer; who rotates it says how long.
        INSERT INTO session_invalidations (token_hash, version, denied_from)
        VALUES (OLD.token_hash, NEW.version,
                coalesce((SELECT valid_until FROM session_retired_tokens WHERE token_hash = OLD.token_hash), clock_timestamp()));
    END IF;
    IF NOT coalesce(NEW.is_active, false) THEN
        dead_from := clock_timestamp();
    END IF;
    INSERT INTO session_invalidations (token_hash, version, denied_from)
    SELECT NEW.token_hash, NEW.version, dead_from
    UNION ALL
    SELECT token_hash, NEW.version, dead_from
    FROM session_retired_tokens
    WHERE session_id = NEW.id AND valid_until > clock_timestamp()
      AND (dead_from IS NOT NULL OR token_hash <> OLD.token_hash); -- told of above
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- Whether there is a session of Phase 24.2 left is asked often, and once there is none the answer would be a look at all.
CREATE INDEX sessions_legacy_idx ON sessions (id) WHERE class = 'legacy';

-- Failures of the last weeks are counted at each try, and most tries succeed.
CREATE INDEX mfa_attempts_failed_idx ON mfa_attempts (user_id, attempted_at) WHERE NOT success;
