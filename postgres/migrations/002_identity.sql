-- Accounts, sessions and second factors. Expands only: writers of Phase 24.2 keep working beside it.

-- +goose Up

-- Rows point upwards, so writers take these tables in about this order too.
SELECT migration_lock('recordings', 'stream_sessions', 'usage_logs', 'event_log', 'snapshots',
                      'billing_accounts', 'sessions', 'streams', 'users');

-- What an adoption found and decided: the zone of old local times, rows kept although they break a rule.
CREATE TABLE adoption_facts (
    name        text PRIMARY KEY,
    value       text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE adoption_findings (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind     text NOT NULL,
    found_in text NOT NULL,
    row_id   bigint NOT NULL,
    detail   text NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now()
);

-- rootstream.legacy_timezone is set by the migrator when the operator names the old writers' zone;
-- otherwise it is what a plain connection to this database gets, which is what now() was stored in.
-- A database without a row has no old times, and no zone that must be remembered.
INSERT INTO adoption_facts (name, value)
SELECT 'legacy_timezone',
       coalesce(nullif(current_setting('rootstream.legacy_timezone', true), ''), current_setting('TimeZone'))
WHERE EXISTS (SELECT FROM users) OR EXISTS (SELECT FROM sessions) OR EXISTS (SELECT FROM streams)
   OR EXISTS (SELECT FROM stream_sessions) OR EXISTS (SELECT FROM recordings) OR EXISTS (SELECT FROM usage_logs)
   OR EXISTS (SELECT FROM billing_accounts) OR EXISTS (SELECT FROM event_log) OR EXISTS (SELECT FROM snapshots);

ALTER TABLE users
    ADD COLUMN public_id uuid,
    ADD COLUMN role text NOT NULL DEFAULT 'user' CONSTRAINT users_role CHECK (role IN ('user', 'operator', 'admin')),
    ADD COLUMN is_case_duplicate boolean NOT NULL DEFAULT false,
    ADD COLUMN email_verified_at timestamptz,
    ADD COLUMN password_changed_at timestamptz,
    ADD COLUMN last_login_ip inet;

ALTER TABLE sessions SET (fillfactor = 85);
ALTER TABLE sessions
    ADD COLUMN public_id uuid,
    ADD COLUMN token_hash bytea,
    ADD COLUMN generation integer NOT NULL DEFAULT 0,
    ADD COLUMN version bigint NOT NULL DEFAULT 1,
    ADD COLUMN class text NOT NULL DEFAULT 'legacy',
    ADD COLUMN aal smallint NOT NULL DEFAULT 1 CONSTRAINT sessions_aal CHECK (aal IN (1, 2)),
    ADD COLUMN amr text[] NOT NULL DEFAULT '{}',
    ADD COLUMN authenticated_at timestamptz,
    ADD COLUMN mfa_at timestamptz,
    ADD COLUMN idle_seconds integer CONSTRAINT sessions_idle CHECK (idle_seconds > 0),
    ADD COLUMN device_name varchar(100),
    ADD COLUMN device_fingerprint varchar(255),
    ADD COLUMN geo_location varchar(100),
    ADD COLUMN is_remembered boolean NOT NULL DEFAULT false,
    ADD COLUMN revoked_at timestamptz,
    ADD COLUMN revoked_reason text;

-- +goose StatementBegin
-- One rewrite a table, in which no trigger fires: an UPDATE would set every updated_at to today.
-- A cast reads a local time in the session's zone, as the old writer's own comparisons with now() did.
DO $$
DECLARE
    here text := current_setting('TimeZone');
    tab regclass;
    changes text;
    -- Two accounts whose names differ only by case both live on; the older one owns the name.
    twins integer[] := ARRAY(
        SELECT u.id FROM (SELECT id, row_number() OVER (PARTITION BY lower(username) ORDER BY id) AS name_rank,
                                 row_number() OVER (PARTITION BY lower(email) ORDER BY id) AS email_rank FROM users) u
        WHERE u.name_rank > 1 OR u.email_rank > 1);
    -- A start in the hour that daylight saving skips may land behind its end: it keeps its distance from it.
    span constant text := 'ALTER COLUMN %1$I TYPE timestamptz USING CASE
        WHEN %1$I < %2$I AND %1$I::timestamptz >= %2$I::timestamptz THEN %2$I::timestamptz - (%2$I - %1$I)
        ELSE %1$I::timestamptz END';
BEGIN
    PERFORM set_config('TimeZone', coalesce((SELECT value FROM adoption_facts WHERE name = 'legacy_timezone'), here), true);
    FOR tab, changes IN
        SELECT c.tab, string_agg(c.change, ', ')
        FROM (SELECT a.attrelid::regclass AS tab,
                     CASE WHEN a.attrelid = 'sessions'::regclass AND a.attname = 'created_at'
                          THEN format(span, a.attname, 'expires_at')
                          WHEN a.attrelid = 'stream_sessions'::regclass AND a.attname = 'session_start'
                          THEN format(span, a.attname, 'session_end')
                          ELSE format('ALTER COLUMN %I TYPE timestamptz', a.attname) END AS change
              FROM pg_attribute a
              WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'timestamp'::regtype
                AND a.attrelid IN ('users'::regclass, 'sessions'::regclass, 'streams'::regclass,
                                   'stream_sessions'::regclass, 'recordings'::regclass, 'usage_logs'::regclass,
                                   'billing_accounts'::regclass, 'event_log'::regclass, 'snapshots'::regclass)
              UNION ALL
              SELECT t, 'ALTER COLUMN public_id TYPE uuid USING gen_random_uuid(),
                         ALTER COLUMN public_id SET DEFAULT gen_random_uuid(), ALTER COLUMN public_id SET NOT NULL'
              FROM unnest(ARRAY['users'::regclass, 'sessions'::regclass]) t
              UNION ALL
              SELECT 'users'::regclass,
                     format('ALTER COLUMN is_case_duplicate TYPE boolean USING id = ANY (%L::integer[])', twins)
              UNION ALL
              SELECT 'sessions'::regclass,
                     $c$ALTER COLUMN token_hash TYPE bytea USING sha256(convert_to(session_token, 'UTF8')),
                        ALTER COLUMN token_hash SET NOT NULL, ALTER COLUMN id TYPE bigint$c$) c
        GROUP BY c.tab
        ORDER BY c.tab::text
    LOOP
        EXECUTE format('ALTER TABLE %s %s', tab, changes);
    END LOOP;
    PERFORM set_config('TimeZone', here, true);

    -- The sequence behind sessions.id, whoever named it and whether or not the column owns it.
    FOR tab IN
        SELECT s.oid::regclass
        FROM pg_attribute a
        LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
        JOIN pg_depend d ON (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass)
        JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
        WHERE a.attrelid = 'sessions'::regclass AND a.attname = 'id'
    LOOP
        EXECUTE format('ALTER SEQUENCE %s AS bigint', tab);
    END LOOP;
END
$$;
-- +goose StatementEnd

INSERT INTO adoption_findings (kind, found_in, row_id, detail)
SELECT 'case_duplicate', 'users', id, 'the name or e-mail address differs from an older account''s only by case'
FROM users WHERE is_case_duplicate ORDER BY id;

CREATE UNIQUE INDEX users_public_id_key ON users (public_id);
CREATE UNIQUE INDEX users_username_lower_key ON users (lower(username)) WHERE NOT is_case_duplicate;
CREATE UNIQUE INDEX users_email_lower_key ON users (lower(email)) WHERE NOT is_case_duplicate;
CREATE INDEX users_username_lower_idx ON users (lower(username));
CREATE INDEX users_email_lower_idx ON users (lower(email));
CREATE UNIQUE INDEX sessions_public_id_key ON sessions (public_id);
CREATE UNIQUE INDEX sessions_token_hash_key ON sessions (token_hash);
CREATE INDEX sessions_user_live_idx ON sessions (user_id, created_at) WHERE is_active;

-- Every token a session ever had and no longer has: its use at refresh is theft.
CREATE TABLE session_retired_tokens (
    token_hash bytea PRIMARY KEY,
    session_id bigint NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    generation integer NOT NULL,
    retired_at timestamptz NOT NULL,
    valid_until timestamptz NOT NULL
);
CREATE INDEX session_retired_tokens_session_idx ON session_retired_tokens (session_id);

-- What every instance must hear about: a token whose view changed, or that ends at denied_from.
-- xid lets a poller see each row exactly once, whatever the order of commits.
CREATE TABLE session_invalidations (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    token_hash  bytea NOT NULL,
    version     bigint NOT NULL,
    denied_from timestamptz
);
CREATE INDEX session_invalidations_xid_idx ON session_invalidations (xid);
CREATE INDEX session_invalidations_at_idx ON session_invalidations (at);

-- The functions below run in the old writers' connections too: they look for our tables where the migration
-- found them, not where that connection's search_path points. Their plans are kept as long as a connection: one made
-- while a table was small must not read all of it once it is large.

-- +goose StatementBegin
CREATE FUNCTION sessions_adopt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A writer of Phase 24.2 knows session_token only. 'h1:' and the hash is what stands there once it is scrubbed.
    IF NEW.token_hash IS NULL OR (TG_OP = 'UPDATE' AND NEW.session_token <> OLD.session_token
                                  AND NEW.token_hash = OLD.token_hash
                                  AND NEW.session_token <> 'h1:' || encode(NEW.token_hash, 'hex')) THEN
        NEW.token_hash := sha256(convert_to(NEW.session_token, 'UTF8'));
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.revoked_at IS NOT NULL THEN -- what was revoked never lives again
            NEW.is_active := false;
            NEW.revoked_at := OLD.revoked_at;
        ELSIF OLD.is_active AND NEW.is_active IS NOT TRUE AND NEW.revoked_at IS NULL THEN
            NEW.revoked_at := clock_timestamp();
            NEW.revoked_reason := coalesce(NEW.revoked_reason, 'legacy');
        END IF;
        IF NEW.version = OLD.version
           AND (NEW.is_active, NEW.expires_at, NEW.token_hash, NEW.aal, NEW.idle_seconds, NEW.user_id)
           IS DISTINCT FROM (OLD.is_active, OLD.expires_at, OLD.token_hash, OLD.aal, OLD.idle_seconds, OLD.user_id) THEN
            NEW.version := OLD.version + 1;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER sessions_adopt BEFORE INSERT OR UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION sessions_adopt();

-- +goose StatementBegin
CREATE FUNCTION sessions_invalidate() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
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
    INSERT INTO session_invalidations (token_hash, version, denied_from)
    VALUES (NEW.token_hash, NEW.version, CASE WHEN coalesce(NEW.is_active, false) THEN NULL ELSE clock_timestamp() END);
    IF NOT coalesce(NEW.is_active, false) THEN
        INSERT INTO session_invalidations (token_hash, version, denied_from)
        SELECT token_hash, NEW.version, clock_timestamp()
        FROM session_retired_tokens WHERE session_id = NEW.id AND valid_until > clock_timestamp();
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER sessions_invalidate_update AFTER UPDATE ON sessions
    FOR EACH ROW WHEN (NEW.version <> OLD.version) EXECUTE FUNCTION sessions_invalidate();
CREATE TRIGGER sessions_invalidate_delete BEFORE DELETE ON sessions
    FOR EACH ROW WHEN (OLD.is_active AND OLD.expires_at > now()) EXECUTE FUNCTION sessions_invalidate();

-- +goose StatementBegin
-- A name or address is taken in every spelling. Our own writers say so (rootstream.writer) and get the violation of
-- the unique index below, whatever the adopted constraints are called; a 24.2 writer knows names by exact spelling.
CREATE FUNCTION users_adopt() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    ours boolean := coalesce(current_setting('rootstream.writer', true), '') = 'on';
BEGIN
    IF TG_OP = 'UPDATE' AND lower(NEW.username) = lower(OLD.username) AND lower(NEW.email) = lower(OLD.email) THEN
        RETURN NEW;
    END IF;
    -- 256 locks each, so that a bulk insert does not fill the lock table.
    PERFORM pg_advisory_xact_lock(7206, hashtext(lower(NEW.username)) & 255);
    PERFORM pg_advisory_xact_lock(7207, hashtext(lower(NEW.email)) & 255);
    NEW.is_case_duplicate := false;
    IF EXISTS (SELECT FROM users WHERE lower(username) = lower(NEW.username) AND id <> NEW.id) THEN
        IF ours THEN
            RAISE unique_violation USING MESSAGE = 'that user name is taken', TABLE = 'users',
                CONSTRAINT = 'users_username_lower_key';
        END IF;
        NEW.is_case_duplicate := true;
    END IF;
    IF EXISTS (SELECT FROM users WHERE lower(email) = lower(NEW.email) AND id <> NEW.id) THEN
        IF ours THEN
            RAISE unique_violation USING MESSAGE = 'that e-mail address is taken', TABLE = 'users',
                CONSTRAINT = 'users_email_lower_key';
        END IF;
        NEW.is_case_duplicate := true;
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER users_adopt BEFORE INSERT OR UPDATE OF username, email ON users
    FOR EACH ROW EXECUTE FUNCTION users_adopt();

-- +goose StatementBegin
CREATE FUNCTION users_report() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO adoption_findings (kind, found_in, row_id, detail)
    VALUES ('case_duplicate', 'users', NEW.id, 'the name or e-mail address differs from an older account''s only by case');
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER users_report AFTER INSERT OR UPDATE OF username, email ON users
    FOR EACH ROW WHEN (NEW.is_case_duplicate) EXECUTE FUNCTION users_report();

-- +goose StatementBegin
CREATE FUNCTION users_end_sessions() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    -- Whoever deactivates an account, in whatever way, ends its sessions; a change of role or
    -- verification makes every instance read the session again.
    IF NOT coalesce(NEW.is_active, false) AND coalesce(OLD.is_active, false) THEN
        UPDATE sessions SET is_active = false, revoked_at = clock_timestamp(), revoked_reason = 'user_disabled',
               version = version + 1
        WHERE user_id = NEW.id AND is_active;
    ELSE
        UPDATE sessions SET version = version + 1 WHERE user_id = NEW.id AND is_active;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER users_end_sessions AFTER UPDATE ON users FOR EACH ROW
    WHEN ((NEW.is_active, NEW.role, NEW.is_verified) IS DISTINCT FROM (OLD.is_active, OLD.role, OLD.is_verified))
    EXECUTE FUNCTION users_end_sessions();

-- Single-use tokens that travel outside: e-mail verification, recovery, first administrator.
CREATE TABLE user_tokens (
    token_hash  bytea PRIMARY KEY,
    purpose     text NOT NULL,
    user_id     integer REFERENCES users (id) ON DELETE CASCADE,
    detail      jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    consumed_at timestamptz
);
CREATE INDEX user_tokens_user_idx ON user_tokens (user_id);
CREATE INDEX user_tokens_expires_idx ON user_tokens (expires_at);

CREATE TABLE user_mfa (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    public_id    uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    user_id      integer NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    method       varchar(20) NOT NULL CONSTRAINT user_mfa_method CHECK (method IN ('totp', 'backup_code')),
    name         varchar(100) NOT NULL DEFAULT '',
    secret       bytea,
    is_enabled   boolean NOT NULL DEFAULT false,
    backup_salt  bytea,
    backup_codes bytea[] NOT NULL DEFAULT '{}',
    last_step    bigint NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now(),
    confirmed_at timestamptz,
    last_used_at timestamptz
);
CREATE INDEX user_mfa_user_id_idx ON user_mfa (user_id);
CREATE UNIQUE INDEX user_mfa_enabled_key ON user_mfa (user_id, method) WHERE is_enabled;

-- Every try is written down before its code is compared.
CREATE TABLE mfa_attempts (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    user_id      integer NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    method       varchar(20) NOT NULL,
    success      boolean NOT NULL DEFAULT false,
    reason       text NOT NULL DEFAULT '',
    ip_address   inet,
    attempted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX mfa_attempts_user_id_idx ON mfa_attempts (user_id, attempted_at DESC);

-- One row a user: the budget that all methods share, and the lock parallel tries meet.
CREATE TABLE mfa_guards (
    user_id        integer PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    window_started timestamptz NOT NULL DEFAULT now(),
    tries          integer NOT NULL DEFAULT 0,
    suspended_at   timestamptz
);

CREATE TABLE auth_challenges (
    token_hash  bytea PRIMARY KEY,
    purpose     text NOT NULL,
    user_id     integer NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    detail      jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    consumed_at timestamptz
);
CREATE INDEX auth_challenges_expires_idx ON auth_challenges (expires_at);
CREATE INDEX auth_challenges_user_idx ON auth_challenges (user_id);

-- The wrapped data keys; canary is sealed with them and proves the master key at start.
CREATE TABLE keysets (
    name       text PRIMARY KEY,
    wrapped    bytea NOT NULL,
    canary     bytea NOT NULL,
    revision   bigint NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL DEFAULT now()
);
