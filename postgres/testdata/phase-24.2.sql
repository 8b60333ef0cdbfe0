-- A database as an installation of Phase 24.2 may have left it: the tables and columns are that phase's, the names of
-- constraints, indexes, triggers and sequences are somebody else's choice. It is loaded by a connection in America/New_York.

CREATE FUNCTION touch_row() RETURNS trigger AS $$
BEGIN
    NEW.updated_at = CURRENT_TIMESTAMP;
    RETURN NEW;
END;
$$ LANGUAGE plpgsql;

CREATE TABLE users (
    id SERIAL CONSTRAINT pk_users PRIMARY KEY,
    username VARCHAR(255) NOT NULL CONSTRAINT uq_users_name UNIQUE,
    email VARCHAR(255) NOT NULL CONSTRAINT uq_users_mail UNIQUE,
    password_hash VARCHAR(255) NOT NULL,
    display_name VARCHAR(255),
    avatar_url VARCHAR(512),
    is_verified BOOLEAN DEFAULT FALSE,
    is_active BOOLEAN DEFAULT TRUE,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    last_login_at TIMESTAMP,
    CONSTRAINT email_format CHECK (email ~* '^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$')
);
CREATE INDEX ix_users_name ON users (username);
CREATE INDEX ix_users_mail ON users (email);
CREATE INDEX ix_users_active ON users (is_active);
CREATE TRIGGER users_touch BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch_row();

CREATE TABLE sessions (
    id SERIAL CONSTRAINT pk_sessions PRIMARY KEY,
    user_id INTEGER NOT NULL CONSTRAINT fk_sessions_user REFERENCES users (id) ON DELETE CASCADE,
    session_token VARCHAR(512) NOT NULL CONSTRAINT uq_sessions_token UNIQUE,
    device_id VARCHAR(255),
    user_agent TEXT,
    ip_address INET,
    expires_at TIMESTAMP NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    last_activity TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    is_active BOOLEAN DEFAULT TRUE,
    CONSTRAINT valid_expiration CHECK (expires_at > created_at)
);
ALTER SEQUENCE sessions_id_seq RENAME TO session_numbers;
CREATE INDEX ix_sessions_user ON sessions (user_id);
CREATE INDEX ix_sessions_token ON sessions (session_token);
CREATE INDEX ix_sessions_expiry ON sessions (expires_at);
CREATE INDEX ix_sessions_live ON sessions (is_active, expires_at);

CREATE TABLE streams (
    id SERIAL CONSTRAINT pk_streams PRIMARY KEY,
    user_id INTEGER NOT NULL CONSTRAINT fk_streams_user REFERENCES users (id) ON DELETE CASCADE,
    name VARCHAR(255) NOT NULL,
    description TEXT,
    stream_key VARCHAR(512) NOT NULL CONSTRAINT uq_streams_key UNIQUE,
    stream_url VARCHAR(512),
    thumbnail_url VARCHAR(512),
    is_live BOOLEAN DEFAULT FALSE,
    viewer_count INTEGER DEFAULT 0,
    bitrate_kbps INTEGER,
    resolution VARCHAR(50),
    fps INTEGER,
    codec VARCHAR(50),
    is_public BOOLEAN DEFAULT TRUE,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    started_at TIMESTAMP,
    ended_at TIMESTAMP
);
CREATE INDEX ix_streams_user ON streams (user_id);
CREATE INDEX ix_streams_live ON streams (is_live);
CREATE INDEX ix_streams_key ON streams (stream_key);
CREATE INDEX ix_streams_public ON streams (is_public, is_live);
CREATE TRIGGER streams_touch BEFORE UPDATE ON streams FOR EACH ROW EXECUTE FUNCTION touch_row();

CREATE TABLE stream_sessions (
    id SERIAL CONSTRAINT pk_stream_sessions PRIMARY KEY,
    stream_id INTEGER NOT NULL CONSTRAINT fk_stream_sessions_stream REFERENCES streams (id) ON DELETE CASCADE,
    session_start TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    session_end TIMESTAMP,
    total_viewers INTEGER DEFAULT 0,
    peak_viewers INTEGER DEFAULT 0,
    total_bytes_sent BIGINT DEFAULT 0,
    duration_seconds INTEGER,
    is_recorded BOOLEAN DEFAULT FALSE,
    recording_path VARCHAR(512),
    CONSTRAINT valid_session_time CHECK (session_end IS NULL OR session_end > session_start)
);
CREATE INDEX ix_stream_sessions_stream ON stream_sessions (stream_id);
CREATE INDEX ix_stream_sessions_start ON stream_sessions (session_start DESC);

CREATE TABLE recordings (
    id SERIAL CONSTRAINT pk_recordings PRIMARY KEY,
    stream_id INTEGER NOT NULL CONSTRAINT fk_recordings_stream REFERENCES streams (id) ON DELETE CASCADE,
    session_id INTEGER NOT NULL CONSTRAINT fk_recordings_session REFERENCES stream_sessions (id) ON DELETE CASCADE,
    file_path VARCHAR(512) NOT NULL,
    file_size_bytes BIGINT,
    duration_seconds INTEGER,
    codec VARCHAR(50),
    resolution VARCHAR(50),
    fps INTEGER,
    bitrate_kbps INTEGER,
    is_processed BOOLEAN DEFAULT FALSE,
    is_available BOOLEAN DEFAULT TRUE,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    expires_at TIMESTAMP,
    CONSTRAINT valid_file_size CHECK (file_size_bytes IS NULL OR file_size_bytes > 0)
);
CREATE INDEX ix_recordings_stream ON recordings (stream_id);
CREATE INDEX ix_recordings_session ON recordings (session_id);
CREATE INDEX ix_recordings_expiry ON recordings (expires_at);
CREATE INDEX ix_recordings_available ON recordings (is_available);

CREATE TABLE usage_logs (
    id BIGSERIAL CONSTRAINT pk_usage_logs PRIMARY KEY,
    user_id INTEGER NOT NULL CONSTRAINT fk_usage_logs_user REFERENCES users (id) ON DELETE CASCADE,
    stream_id INTEGER CONSTRAINT fk_usage_logs_stream REFERENCES streams (id) ON DELETE SET NULL,
    event_type VARCHAR(50),
    bytes_transferred BIGINT DEFAULT 0,
    duration_seconds INTEGER DEFAULT 0,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX ix_usage_logs_user ON usage_logs (user_id);
CREATE INDEX ix_usage_logs_stream ON usage_logs (stream_id);
CREATE INDEX ix_usage_logs_created ON usage_logs (created_at DESC);
CREATE INDEX ix_usage_logs_event ON usage_logs (event_type);

CREATE TABLE billing_accounts (
    id SERIAL CONSTRAINT pk_billing PRIMARY KEY,
    user_id INTEGER NOT NULL CONSTRAINT uq_billing_user UNIQUE CONSTRAINT fk_billing_user REFERENCES users (id) ON DELETE CASCADE,
    payment_method VARCHAR(255),
    subscription_tier VARCHAR(50) DEFAULT 'free',
    monthly_limit_gb INTEGER,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX ix_billing_user ON billing_accounts (user_id);
CREATE INDEX ix_billing_tier ON billing_accounts (subscription_tier);
CREATE TRIGGER billing_touch BEFORE UPDATE ON billing_accounts FOR EACH ROW EXECUTE FUNCTION touch_row();

CREATE TABLE event_log (
    id BIGSERIAL CONSTRAINT pk_event_log PRIMARY KEY,
    aggregate_type VARCHAR(50),
    aggregate_id INTEGER,
    event_type VARCHAR(100),
    event_data JSONB NOT NULL,
    timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    version INTEGER,
    user_id INTEGER CONSTRAINT fk_event_log_user REFERENCES users (id) ON DELETE SET NULL
);
CREATE INDEX ix_event_log_aggregate ON event_log (aggregate_type, aggregate_id);
CREATE INDEX ix_event_log_time ON event_log (timestamp DESC);
CREATE INDEX ix_event_log_type ON event_log (event_type);
CREATE INDEX ix_event_log_user ON event_log (user_id);

CREATE TABLE snapshots (
    id BIGSERIAL CONSTRAINT pk_snapshots PRIMARY KEY,
    aggregate_type VARCHAR(50),
    aggregate_id INTEGER,
    version INTEGER,
    state JSONB NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT uq_snapshots_version UNIQUE (aggregate_type, aggregate_id, version)
);
CREATE INDEX ix_snapshots_newest ON snapshots (aggregate_type, aggregate_id, version DESC);

-- In New York 01:30 of 2025-11-02 happened twice and 02:30 of 2026-03-08 never; arithmetic on local times makes both.
INSERT INTO users (id, username, email, password_hash, display_name, is_verified, is_active, created_at, updated_at, last_login_at) VALUES
    (1, 'ada', 'ada@example.org', 'x', 'Ada', true, true, '2025-06-01 12:00:00', '2025-06-02 12:00:00', '2025-12-01 09:00:00'),
    (2, 'Ada', 'ADA@example.org', 'x', NULL, false, true, '2025-06-03 12:00:00', '2025-06-03 12:00:00', NULL),
    (3, 'ADA', 'third@example.org', 'x', NULL, false, true, '2025-06-04 12:00:00', '2025-06-04 12:00:00', NULL),
    (4, 'grace', 'grace@example.org', 'x', 'Grace', true, true, '2025-11-02 00:59:59', '2025-11-02 01:30:00', '2025-11-02 02:00:00'),
    (5, 'hopper', 'Grace@Example.org', 'x', NULL, true, true, '2026-03-08 01:59:59.999999', '2026-03-08 02:30:00', '2026-03-08 03:00:00'),
    (6, 'sleeper', 'sleeper@example.org', 'x', NULL, true, false, '2025-07-01 00:00:00', '2025-07-01 00:00:00', NULL),
    (7, 'nobody', 'nobody@example.org', 'x', NULL, NULL, NULL, NULL, NULL, NULL),
    (8, 'Zoë', 'zoe@example.org', 'x', 'Zoë ♥', true, true, '2025-08-01 00:00:00', '2025-08-01 00:00:00', NULL),
    (9, 'ZOË', 'zoe2@example.org', 'x', NULL, true, true, '2025-08-02 00:00:00', '2025-08-02 00:00:00', NULL),
    (10, 'deleted', 'deleted@example.org', 'x', NULL, true, true, '2025-08-02 00:00:00', '2025-08-02 00:00:00', NULL);
SELECT setval('users_id_seq', 10);

INSERT INTO sessions (id, user_id, session_token, device_id, user_agent, ip_address, expires_at, created_at, last_activity, is_active) VALUES
    (1, 1, 'plain-token-live-1', 'phone', 'Mozilla/5.0 ♥', '192.0.2.7', now() + interval '20 days', '2025-12-01 09:00:00', now(), true),
    (2, 1, 'plain-token-live-2', NULL, NULL, '2001:db8::7', now() + interval '30 minutes', now() - interval '1 hour', now(), true),
    (3, 4, 'plain-token-live-3', 'tv', '', NULL, '9999-12-31 23:59:59', '2025-12-01 09:00:00', NULL, true),
    (4, 1, 'plain-token-expired', NULL, NULL, NULL, '2025-11-02 01:30:00', '2025-11-02 00:30:00', '2025-11-02 01:15:00', true),
    (5, 1, 'plain-token-revoked', NULL, NULL, NULL, now() + interval '10 days', '2025-12-01 09:00:00', '2025-12-01 09:00:00', false),
    (6, 5, 'plain-token-skipped', NULL, NULL, NULL, '2026-03-08 02:30:00', '2026-03-07 02:30:00', '2026-03-08 01:00:00', true),
    (7, 5, 'plain-token-backwards', NULL, NULL, NULL, '2026-03-08 03:10:00', '2026-03-08 02:30:00', '2026-03-08 02:45:00', true),
    (8, 6, 'plain-token-of-sleeper', NULL, NULL, NULL, now() + interval '10 days', '2025-12-01 09:00:00', '2025-12-01 09:00:00', true),
    (9, 7, 'plain-token-null-flag', NULL, NULL, NULL, now() + interval '10 days', NULL, NULL, NULL),
    (10, 2, 'h1:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', NULL, NULL, NULL, now() + interval '10 days', now(), now(), true),
    (11, 10, 'plain-token-of-deleted', NULL, NULL, NULL, now() + interval '10 days', now(), now(), true);
SELECT setval('session_numbers', 11);

INSERT INTO streams (id, user_id, name, description, stream_key, stream_url, thumbnail_url, is_live, viewer_count, bitrate_kbps,
                     resolution, fps, codec, is_public, created_at, updated_at, started_at, ended_at) VALUES
    (1, 1, 'Analytical Engine', 'On numbers', 'plain-key-1', 'rtmp://ingest.example.org/live/plain-key-1', NULL, true, 12, 4500,
     '1920x1080', 60, 'h264', true, '2025-09-01 10:00:00', '2025-09-02 10:00:00', '2025-11-02 01:10:00', NULL),
    (2, 4, 'Compilers', NULL, 'plain-key-2', 'https://cdn.example.org/compilers.m3u8', 'https://cdn.example.org/2.png', false, 0, NULL,
     NULL, NULL, NULL, false, '2025-09-01 10:00:00', '2025-09-03 10:00:00', '2026-03-08 01:30:00', '2026-03-08 03:30:00'),
    (3, 6, 'Short key', NULL, 'k', 'https://cdn.example.org/k', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT setval('streams_id_seq', 3);

INSERT INTO stream_sessions (id, stream_id, session_start, session_end, total_viewers, peak_viewers, total_bytes_sent, duration_seconds, is_recorded, recording_path) VALUES
    (1, 1, '2025-11-02 01:10:00', NULL, 40, 12, 9000000000, NULL, false, NULL),
    (2, 2, '2026-03-08 01:30:00', '2026-03-08 03:30:00', 3, 2, 1000, 3600, true, '/recordings/2/1.mp4'),
    (3, 2, '2026-03-08 02:15:00', '2026-03-08 03:05:00', 1, 1, 10, 3000, true, '/recordings/plain-key-2/3.mp4');
SELECT setval('stream_sessions_id_seq', 3);

INSERT INTO recordings (id, stream_id, session_id, file_path, file_size_bytes, duration_seconds, codec, resolution, fps, bitrate_kbps, is_processed, is_available, created_at, expires_at) VALUES
    (1, 2, 2, '/recordings/2/1.mp4', 123456789012, 3600, 'h264', '1280x720', 30, 2500, true, true, '2026-03-08 03:31:00', '2026-11-01 01:30:00'),
    (2, 2, 3, '/recordings/plain-key-2/3.mp4', NULL, NULL, NULL, NULL, NULL, NULL, false, false, '2026-03-08 03:31:00', NULL);
SELECT setval('recordings_id_seq', 2);

INSERT INTO usage_logs (id, user_id, stream_id, event_type, bytes_transferred, duration_seconds, created_at) VALUES
    (1, 1, 1, 'stream_start', 0, 0, '2025-11-02 01:10:00'),
    (2, 4, 2, 'viewer_join', 100, 5, '2026-03-08 03:00:00'),
    (3, 4, NULL, 'viewer_leave', 5000000000, 600, '2026-07-01 12:00:00');
SELECT setval('usage_logs_id_seq', 3);

INSERT INTO billing_accounts (id, user_id, payment_method, subscription_tier, monthly_limit_gb, created_at, updated_at) VALUES
    (1, 1, 'card', 'pro', 500, '2025-10-01 00:00:00', '2025-10-02 00:00:00'),
    (2, 4, NULL, NULL, NULL, '2025-10-01 00:00:00', '2025-10-01 00:00:00');
SELECT setval('billing_accounts_id_seq', 2);

INSERT INTO event_log (id, aggregate_type, aggregate_id, event_type, event_data, timestamp, version, user_id) VALUES
    (1, 'User', 1, 'UserCreated', '{"username": "ada"}', '2025-06-01 12:00:00', 1, 1),
    (2, 'User', 1, 'UserVerified', '{}', '2025-11-02 01:40:00', 2, 1),
    (3, 'User', 1, 'ProfileUpdated', '{"fields": ["display_name"]}', '2025-11-02 01:05:00', 2, 1), -- an hour and 25 minutes later, really
    (4, 'User', 1, 'UserLoggedIn', '{}', '2025-12-01 09:00:00', NULL, 1),
    (5, 'Stream', 1, 'StreamCreated', '{"stream_key": "plain-key-1", "tags": [1, 2.50, "x"], "nested": {"where": ["plain-key-1"]}}', '2025-09-01 10:00:00', 1, 1),
    (6, 'Stream', 1, 'StreamStarted', '{"bitrate": 4500}', '2025-11-02 01:10:00', 2, 1),
    (7, 'Session', 1, 'SessionCreated', '{"token": "plain-token-live-1"}', '2025-12-01 09:00:00', 1, 1),
    (8, 'User', 10, 'UserCreated', '{}', '2025-08-02 00:00:00', 1, 10),
    (9, 'User', 10, 'UserDeleted', '{}', '2025-08-03 00:00:00', 2, 10),
    (10, 'Stream', 77, 'StreamDeleted', '{}', '2025-08-03 00:00:00', 7, 4),
    (11, NULL, NULL, NULL, '{"orphan": true}', NULL, NULL, NULL);
SELECT setval('event_log_id_seq', 11);
DELETE FROM users WHERE id = 10;

INSERT INTO snapshots (id, aggregate_type, aggregate_id, version, state, created_at) VALUES
    (1, 'User', 1, 2, '{"username": "ada", "is_verified": true}', '2025-11-02 01:41:00'),
    (2, 'Stream', 1, 1, '{"name": "Analytical Engine", "stream_key": "plain-key-1"}', '2025-09-01 10:00:00'),
    (3, 'Stream', 2, 1, '{"name": "Compilers", "streamKey": "plain-key-2", "viewers": 0}', '2025-09-01 10:00:00');
SELECT setval('snapshots_id_seq', 3);
