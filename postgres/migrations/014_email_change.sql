-- Changes of e-mail addresses: asked for, then made and, for a while, open to be undone.

-- +goose Up
CREATE TABLE email_changes (
    user_id    integer PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    request_id uuid NOT NULL UNIQUE,
    old_email  varchar(255) NOT NULL,
    new_email  varchar(255) NOT NULL,
    undoable   boolean NOT NULL,
    token_hash bytea UNIQUE,
    asked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz,
    ends_at    timestamptz NOT NULL
);
COMMENT ON COLUMN email_changes.undoable IS 'the old address was known to be the owner''s';
COMMENT ON COLUMN email_changes.token_hash IS 'of the token mailed last: the one that confirms, once changed_at is set the one that undoes';
COMMENT ON COLUMN email_changes.ends_at IS 'until when it may be confirmed or, once changed_at is set, undone';
CREATE INDEX email_changes_kept_idx ON email_changes (lower(old_email)) WHERE changed_at IS NOT NULL;
CREATE INDEX email_changes_ends_idx ON email_changes (ends_at);
