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

-- +goose StatementBegin
-- An address is its old owner's for as long as its change can be undone. Our writers ask before they write; a 24.2 writer
-- gets the violation it knows from an address that is taken.
CREATE FUNCTION users_keep_email() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM email_changes WHERE changed_at IS NOT NULL AND lower(old_email) = lower(NEW.email)
               AND ends_at > clock_timestamp() AND user_id <> NEW.id) THEN
        RAISE unique_violation USING MESSAGE = 'that e-mail address is taken', TABLE = 'users',
            CONSTRAINT = 'users_email_lower_key';
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER users_keep_email BEFORE INSERT OR UPDATE OF email ON users
    FOR EACH ROW EXECUTE FUNCTION users_keep_email();
