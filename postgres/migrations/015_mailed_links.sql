-- What was mailed ends with what it was mailed for, whoever ends that. Expands only.

-- +goose Up
-- +goose StatementBegin
-- Our own writers see to it themselves, and hash a password anew without changing it. A writer of Phase 24.2 knows neither
-- links nor requests: one that was mailed must not vouch for an address it was never sent to, open an account with another
-- password than the one it was to replace, nor outlast the account's being disabled.
CREATE FUNCTION users_end_links() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF coalesce(current_setting('rootstream.writer', true), '') <> 'on' THEN
        DELETE FROM user_tokens WHERE user_id = NEW.id AND consumed_at IS NULL;
        DELETE FROM email_changes WHERE user_id = NEW.id AND changed_at IS NULL;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER users_end_links AFTER UPDATE ON users FOR EACH ROW
    WHEN (NEW.email <> OLD.email OR NEW.password_hash <> OLD.password_hash
          OR coalesce(OLD.is_active, false) AND NOT coalesce(NEW.is_active, false))
    EXECUTE FUNCTION users_end_links();
