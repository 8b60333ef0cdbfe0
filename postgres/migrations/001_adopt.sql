-- The tables of Phase 24.2. What exists is adopted untouched; what is missing is created in that shape.

-- +goose Up
-- +goose StatementBegin
DO $$
BEGIN
    IF to_regclass('users') IS NULL THEN
        CREATE TABLE users (
            id            serial PRIMARY KEY,
            username      varchar(255) NOT NULL UNIQUE,
            email         varchar(255) NOT NULL UNIQUE,
            password_hash varchar(255) NOT NULL,
            display_name  varchar(255),
            avatar_url    varchar(512),
            is_verified   boolean DEFAULT false,
            is_active     boolean DEFAULT true,
            created_at    timestamp DEFAULT now(),
            updated_at    timestamp DEFAULT now(),
            last_login_at timestamp,
            CONSTRAINT email_format CHECK (email ~* '^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$')
        );
        CREATE INDEX idx_users_username ON users (username);
        CREATE INDEX idx_users_email ON users (email);
        CREATE INDEX idx_users_is_active ON users (is_active);
    END IF;

    IF to_regclass('sessions') IS NULL THEN
        CREATE TABLE sessions (
            id            serial PRIMARY KEY,
            user_id       integer NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            session_token varchar(512) NOT NULL UNIQUE,
            device_id     varchar(255),
            user_agent    text,
            ip_address    inet,
            expires_at    timestamp NOT NULL,
            created_at    timestamp DEFAULT now(),
            last_activity timestamp DEFAULT now(),
            is_active     boolean DEFAULT true,
            CONSTRAINT valid_expiration CHECK (expires_at > created_at)
        );
        CREATE INDEX idx_sessions_user_id ON sessions (user_id);
        CREATE INDEX idx_sessions_token ON sessions (session_token);
        CREATE INDEX idx_sessions_expires_at ON sessions (expires_at);
        CREATE INDEX idx_sessions_active ON sessions (is_active, expires_at);
    END IF;

    IF to_regclass('streams') IS NULL THEN
        CREATE TABLE streams (
            id            serial PRIMARY KEY,
            user_id       integer NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            name          varchar(255) NOT NULL,
            description   text,
            stream_key    varchar(512) NOT NULL UNIQUE,
            stream_url    varchar(512),
            thumbnail_url varchar(512),
            is_live       boolean DEFAULT false,
            viewer_count  integer DEFAULT 0,
            bitrate_kbps  integer,
            resolution    varchar(50),
            fps           integer,
            codec         varchar(50),
            is_public     boolean DEFAULT true,
            created_at    timestamp DEFAULT now(),
            updated_at    timestamp DEFAULT now(),
            started_at    timestamp,
            ended_at      timestamp
        );
        CREATE INDEX idx_streams_user_id ON streams (user_id);
        CREATE INDEX idx_streams_is_live ON streams (is_live);
        CREATE INDEX idx_streams_stream_key ON streams (stream_key);
        CREATE INDEX idx_streams_public_live ON streams (is_public, is_live);
    END IF;

    IF to_regclass('stream_sessions') IS NULL THEN
        CREATE TABLE stream_sessions (
            id               serial PRIMARY KEY,
            stream_id        integer NOT NULL REFERENCES streams (id) ON DELETE CASCADE,
            session_start    timestamp NOT NULL DEFAULT now(),
            session_end      timestamp,
            total_viewers    integer DEFAULT 0,
            peak_viewers     integer DEFAULT 0,
            total_bytes_sent bigint DEFAULT 0,
            duration_seconds integer,
            is_recorded      boolean DEFAULT false,
            recording_path   varchar(512),
            CONSTRAINT valid_session_time CHECK (session_end IS NULL OR session_end > session_start)
        );
        CREATE INDEX idx_stream_sessions_stream_id ON stream_sessions (stream_id);
        CREATE INDEX idx_stream_sessions_start ON stream_sessions (session_start DESC);
    END IF;

    IF to_regclass('recordings') IS NULL THEN
        CREATE TABLE recordings (
            id               serial PRIMARY KEY,
            stream_id        integer NOT NULL REFERENCES streams (id) ON DELETE CASCADE,
            session_id       integer NOT NULL REFERENCES stream_sessions (id) ON DELETE CASCADE,
            file_path        varchar(512) NOT NULL,
            file_size_bytes  bigint,
            duration_seconds integer,
            codec            varchar(50),
            resolution       varchar(50),
            fps              integer,
            bitrate_kbps     integer,
            is_processed     boolean DEFAULT false,
            is_available     boolean DEFAULT true,
            created_at       timestamp DEFAULT now(),
            expires_at       timestamp,
            CONSTRAINT valid_file_size CHECK (file_size_bytes IS NULL OR file_size_bytes > 0)
        );
        CREATE INDEX idx_recordings_stream_id ON recordings (stream_id);
        CREATE INDEX idx_recordings_session_id ON recordings (session_id);
        CREATE INDEX idx_recordings_expires_at ON recordings (expires_at);
        CREATE INDEX idx_recordings_is_available ON recordings (is_available);
    END IF;

    IF to_regclass('usage_logs') IS NULL THEN
        CREATE TABLE usage_logs (
            id                bigserial PRIMARY KEY,
            user_id           integer NOT NULL REFERENCES users (id) ON DELETE CASCADE,
            stream_id         integer REFERENCES streams (id) ON DELETE SET NULL,
            event_type        varchar(50),
            bytes_transferred bigint DEFAULT 0,
            duration_seconds  integer DEFAULT 0,
            created_at        timestamp DEFAULT now()
        );
        CREATE INDEX idx_usage_logs_user_id ON usage_logs (user_id);
        CREATE INDEX idx_usage_logs_stream_id ON usage_logs (stream_id);
        CREATE INDEX idx_usage_logs_created_at ON usage_logs (created_at DESC);
        CREATE INDEX idx_usage_logs_event_type ON usage_logs (event_type);
    END IF;

    IF to_regclass('billing_accounts') IS NULL THEN
        CREATE TABLE billing_accounts (
            id                serial PRIMARY KEY,
            user_id           integer NOT NULL UNIQUE REFERENCES users (id) ON DELETE CASCADE,
            payment_method    varchar(255),
            subscription_tier varchar(50) DEFAULT 'free',
            monthly_limit_gb  integer,
            created_at        timestamp DEFAULT now(),
            updated_at        timestamp DEFAULT now()
        );
        CREATE INDEX idx_billing_accounts_user_id ON billing_accounts (user_id);
        CREATE INDEX idx_billing_accounts_tier ON billing_accounts (subscription_tier);
    END IF;

    IF to_regclass('event_log') IS NULL THEN
        CREATE TABLE event_log (
            id             bigserial PRIMARY KEY,
            aggregate_type varchar(50),
            aggregate_id   integer,
            event_type     varchar(100),
            event_data     jsonb NOT NULL,
            timestamp      timestamp DEFAULT now(),
            version        integer,
            user_id        integer REFERENCES users (id) ON DELETE SET NULL
        );
        CREATE INDEX idx_event_log_aggregate ON event_log (aggregate_type, aggregate_id);
        CREATE INDEX idx_event_log_timestamp ON event_log (timestamp DESC);
        CREATE INDEX idx_event_log_event_type ON event_log (event_type);
        CREATE INDEX idx_event_log_user_id ON event_log (user_id);
    END IF;

    IF to_regclass('snapshots') IS NULL THEN
        CREATE TABLE snapshots (
            id             bigserial PRIMARY KEY,
            aggregate_type varchar(50),
            aggregate_id   integer,
            version        integer,
            state          jsonb NOT NULL,
            created_at     timestamp DEFAULT now(),
            UNIQUE (aggregate_type, aggregate_id, version)
        );
        CREATE INDEX idx_snapshots_aggregate ON snapshots (aggregate_type, aggregate_id, version DESC);
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    t text;
BEGIN
    -- An adopted database brings its own function and triggers, whatever their names: only a table
    -- without a trigger before updates (bits 1 row, 2 before, 16 update) gets ours.
    FOREACH t IN ARRAY ARRAY['users', 'streams', 'billing_accounts'] LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger
                       WHERE tgrelid = t::regclass AND NOT tgisinternal AND tgtype & 19 = 19) THEN
            CREATE OR REPLACE FUNCTION rootstream_touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN NEW.updated_at = now(); RETURN NEW; END';
            EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE ON %I
                FOR EACH ROW EXECUTE FUNCTION rootstream_touch_updated_at()', t || '_touch_updated_at', t);
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- migration_lock takes tables for a migration within 900 ms altogether or fails (55P03), and the migrator
-- tries again: nobody queues behind it for longer, and no writer that waits for it reaches deadlock_timeout.
CREATE FUNCTION migration_lock(VARIADIC tables text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    patience text := current_setting('lock_timeout');
    begun timestamptz := clock_timestamp();
    t text;
BEGIN
    FOREACH t IN ARRAY tables LOOP
        PERFORM set_config('lock_timeout', greatest(1, ceil(900
            - 1000 * extract(epoch FROM clock_timestamp() - begun)))::integer || 'ms', true);
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', t);
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
END
$$;
-- +goose StatementEnd
