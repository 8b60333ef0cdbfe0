-- Tokens and keys that 24.2 wrote into its JSON documents: a snapshot of a stream may hold its key.

-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION pg_temp.scrub(field text, doc jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    hash bytea;
BEGIN
    IF jsonb_typeof(doc) = 'object' THEN
        RETURN (SELECT coalesce(jsonb_object_agg(key, pg_temp.scrub(key, value)), '{}') FROM jsonb_each(doc));
    ELSIF jsonb_typeof(doc) = 'array' THEN
        RETURN (SELECT coalesce(jsonb_agg(pg_temp.scrub(field, value) ORDER BY ordinality), '[]')
                FROM jsonb_array_elements(doc) WITH ORDINALITY);
    ELSIF jsonb_typeof(doc) = 'string' AND doc #>> '{}' NOT LIKE 'h1:%' THEN
        hash := sha256(convert_to(doc #>> '{}', 'UTF8'));
        IF lower(replace(field, '_', '')) IN ('sessiontoken', 'streamkey')
           OR EXISTS (SELECT FROM sessions WHERE token_hash = hash)
           OR EXISTS (SELECT FROM streams WHERE stream_key_hash = hash) THEN
            RETURN to_jsonb('h1:' || encode(hash, 'hex'));
        END IF;
    END IF;
    RETURN doc;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
DO $$
DECLARE
    tab text;
    col text;
    found boolean;
BEGIN
    FOR tab, col IN VALUES ('event_log', 'event_data'), ('snapshots', 'state'), ('events', 'data') LOOP
        EXECUTE format($q$
            SELECT EXISTS (SELECT FROM %1$I WHERE %2$I::text ~* '"(session_?token|stream_?key)": "(?!h1:)')
                OR EXISTS (SELECT FROM %1$I, jsonb_path_query(%2$I, 'strict $.** ? (@.type() == "string")') leaf
                           WHERE sha256(convert_to(leaf #>> '{}', 'UTF8')) IN
                                 (SELECT token_hash FROM sessions UNION ALL SELECT stream_key_hash FROM streams))$q$,
            tab, col) INTO found;
        IF found THEN -- rewrite, so that no dead row keeps them
            PERFORM migration_lock(tab);
            EXECUTE format('ALTER TABLE %I ALTER COLUMN %I TYPE jsonb USING pg_temp.scrub('''', %2$I)', tab, col);
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd
DROP FUNCTION pg_temp.scrub(text, jsonb);
