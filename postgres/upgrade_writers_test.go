package postgres_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// invalidated reports how often instances were told that the token of a session ends now.
func invalidated(t *testing.T, c *pgx.Conn, token string) int {
	t.Helper()
	hash := sha256.Sum256([]byte(token))
	return value[int](t, c, "select count(*) from session_invalidations where token_hash = $1 and denied_from <= clock_timestamp()", hash[:])
}

func TestOldWritersGoOnBesideARollingUpgrade(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	old := connect(t, dsn, "") // connected, and its statements prepared, before the upgrade
	insert := `INSERT INTO sessions (user_id, session_token, device_id, user_agent, ip_address, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6)`
	zone, err := time.LoadLocation(newYork)
	if err != nil {
		t.Fatal(err)
	}
	summer := time.Date(2099, 7, 1, 12, 0, 0, 0, zone) // before and after: the driver sends the local time it knows
	mustExec(t, old, insert, 1, "plain-token-before", "tv", "ua", "192.0.2.1", summer)
	migrate(t, dsn, postgres.MigrateOptions{Rolling: true})
	mustExec(t, old, insert, 1, "plain-token-after", "tv", "ua", "192.0.2.1", summer)
	for _, token := range []string{"plain-token-before", "plain-token-after"} {
		hash := sha256.Sum256([]byte(token))
		if got := value[time.Time](t, old, "select expires_at from sessions where token_hash = $1", hash[:]); !got.Equal(summer) {
			t.Errorf("%s expires at %v, want %v", token, got, summer)
		}
	}

	// What 24.2 does all day, in its own words.
	for _, tt := range []struct {
		name, sql, check string
	}{
		{
			"creates a user", "INSERT INTO users (username, email, password_hash) VALUES ('linus', 'linus@example.org', 'x')",
			"select is_case_duplicate = false and role = 'user' and public_id is not null from users where username = 'linus'",
		},
		{
			"creates a twin", "INSERT INTO users (username, email, password_hash) VALUES ('Linus', 'other@example.org', 'x')",
			"select is_case_duplicate and exists (select from adoption_findings f where f.row_id = u.id) from users u where username = 'Linus'",
		},
		{
			"creates a twin by address", "INSERT INTO users (username, email, password_hash) VALUES ('torvalds', 'LINUS@example.org', 'x')",
			"select is_case_duplicate from users where username = 'torvalds'",
		},
		{
			"skips a user it has", "INSERT INTO users (username, email, password_hash) VALUES ('linus', 'linus@example.org', 'x') ON CONFLICT DO NOTHING",
			"select count(*) = 1 from users where username = 'linus'",
		},
		{
			"renames a twin", "UPDATE users SET username = 'finn' WHERE username = 'Linus'",
			"select not is_case_duplicate from users where username = 'finn'",
		},
		{
			"renames into a twin", "UPDATE users SET email = 'Linus@Example.org' WHERE username = 'finn'",
			"select is_case_duplicate from users where username = 'finn'",
		},
		{
			"updates a profile", "UPDATE users SET display_name = 'L', avatar_url = 'a' WHERE username = 'linus'",
			"select updated_at > now() - interval '1 minute' from users where username = 'linus'",
		},
		{
			"notes a sign-in", "UPDATE users SET last_login_at = NOW() WHERE username = 'linus'",
			"select last_login_at between now() - interval '1 minute' and now() from users where username = 'linus'",
		},
		{"verifies", "UPDATE users SET is_verified = TRUE WHERE username = 'linus'", "select is_verified from users where username = 'linus'"},
		{"finds a session", "SELECT 1", "select count(*) = 1 from sessions WHERE session_token = 'plain-token-after' AND is_active = TRUE AND expires_at > NOW()"},
		{
			"names no columns", "INSERT INTO sessions VALUES (DEFAULT, 1, 'plain-token-positional', NULL, NULL, NULL, NOW() + INTERVAL '1 day')",
			"select token_hash = sha256('plain-token-positional') from sessions where session_token = 'plain-token-positional'",
		},
		{
			"touches a session", "UPDATE sessions SET last_activity = NOW() WHERE session_token = 'plain-token-after'",
			"select version = 1 from sessions where session_token = 'plain-token-after'",
		},
		{
			"prolongs a session", "UPDATE sessions SET expires_at = NOW() + INTERVAL '30 days' WHERE session_token = 'plain-token-after'",
			"select version = 2 from sessions where session_token = 'plain-token-after'",
		},
		{
			"creates a stream", "INSERT INTO streams (user_id, name, stream_key, stream_url) VALUES (1, 'n', 'plain-key-new', 'u')",
			"select stream_key_hash = sha256('plain-key-new') and public_id is not null from streams where stream_key = 'plain-key-new'",
		},
		{
			"changes its key", "UPDATE streams SET stream_key = 'plain-key-newer' WHERE stream_key = 'plain-key-new'",
			"select stream_key_hash = sha256('plain-key-newer') from streams where stream_key = 'plain-key-newer'",
		},
		{
			"goes live", "UPDATE streams SET is_live = TRUE, started_at = NOW() WHERE stream_key = 'plain-key-newer'",
			"select is_live and stream_key_hash = sha256('plain-key-newer') from streams where stream_key = 'plain-key-newer'",
		},
		{
			"logs an event", "INSERT INTO event_log (aggregate_type, aggregate_id, event_type, event_data, version, user_id) VALUES ('User', 1, 'Late', '{}', 2, 1); SELECT import_event_log(10)",
			"select exists (select from events where name = 'Late' and version = 5)",
		},
		{
			"logs an event of a user it deleted", "WITH gone AS (DELETE FROM users WHERE id = 3) INSERT INTO event_log (aggregate_type, aggregate_id, event_type, event_data, version) VALUES ('User', 10, 'Again', '{}', 3); SELECT import_event_log(10)",
			"select exists (select from events where name = 'Again' and version = 3)",
		},
		{"starts a stream session", "INSERT INTO stream_sessions (stream_id) VALUES (1)", "select count(*) = 2 from stream_sessions where stream_id = 1 and public_id is not null"},
		{"writes a snapshot", "INSERT INTO snapshots (aggregate_type, aggregate_id, version, state) VALUES ('User', 1, 100, '{}')", "select true"},
	} {
		if _, err := old.Exec(context.Background(), tt.sql); err != nil {
			t.Errorf("an old writer %s: %v", tt.name, err)
			continue
		}
		if !value[bool](t, old, tt.check) {
			t.Errorf("an old writer %s: not (%s)", tt.name, tt.check)
		}
	}
}

func TestOldWritersRevocationsReachEveryInstance(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sql     string
		ends    []string
		remains []string
	}{
		"signs out":             {"UPDATE sessions SET is_active = FALSE WHERE session_token = 'plain-token-live-1'", []string{"plain-token-live-1"}, []string{"plain-token-live-2"}},
		"deletes a session":     {"DELETE FROM sessions WHERE session_token = 'plain-token-live-1'", []string{"plain-token-live-1"}, []string{"plain-token-live-2"}},
		"deletes a user":        {"DELETE FROM users WHERE id = 1", []string{"plain-token-live-1", "plain-token-live-2"}, []string{"plain-token-live-3"}},
		"deactivates a user":    {"UPDATE users SET is_active = FALSE WHERE id = 1", []string{"plain-token-live-1", "plain-token-live-2"}, []string{"plain-token-live-3"}},
		"forgets a user's flag": {"UPDATE users SET is_active = NULL WHERE id = 1", []string{"plain-token-live-1", "plain-token-live-2"}, []string{"plain-token-live-3"}},
		"changes a token":       {"UPDATE sessions SET session_token = 'plain-token-rotated' WHERE session_token = 'plain-token-live-1'", []string{"plain-token-live-1"}, []string{"plain-token-rotated"}},
		"cleans up the expired": {"DELETE FROM sessions WHERE expires_at < NOW()", nil, []string{"plain-token-expired", "plain-token-live-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := rolling(t)
			c := connect(t, dsn, "")
			mustExec(t, c, tt.sql)
			for _, token := range tt.ends {
				if invalidated(t, c, token) == 0 {
					t.Errorf("nobody hears that %s ended", token)
				}
				if n := value[int](t, c, "select count(*) from sessions where token_hash = sha256(convert_to($1, 'UTF8')) and (is_active or revoked_at is null)", token); n != 0 {
					t.Errorf("%s is not revoked", token)
				}
			}
			for _, token := range tt.remains {
				if invalidated(t, c, token) != 0 {
					t.Errorf("%s was said to have ended", token)
				}
			}
		})
	}
}

func TestARevokedSessionNeverLivesAgain(t *testing.T) {
	t.Parallel()
	dsn := rolling(t)
	c := connect(t, dsn, "")
	mustExec(t, c, "UPDATE sessions SET is_active = FALSE WHERE id = 1")
	mustExec(t, c, "UPDATE sessions SET is_active = TRUE, expires_at = NOW() + INTERVAL '1 year' WHERE id = 1")
	if value[bool](t, c, "select is_active or revoked_at is null from sessions where id = 1") {
		t.Error("an old writer brought a revoked session back")
	}
	mustExec(t, c, "UPDATE sessions SET last_activity = NOW() WHERE id = 5") // ended before the upgrade
	if value[bool](t, c, "select revoked_at is not null from sessions where id = 5") {
		t.Error("a session that ended before the upgrade got today's revocation")
	}
}

func TestDeletingASessionEndsItsRetiredTokensToo(t *testing.T) {
	t.Parallel()
	c := connect(t, postgrestest.DSN(t), "")
	mustExec(t, c, `with u as (insert into users (username, email, password_hash) values ('a', 'a@example.org', 'x') returning id),
		s as (insert into sessions (user_id, session_token, expires_at) select id, 'new', now() + interval '1 day' from u returning id)
		insert into session_retired_tokens select sha256('old'), id, 0, now(), now() + interval '10 s' from s`)
	mustExec(t, c, "delete from users")
	if invalidated(t, c, "old") != 1 || invalidated(t, c, "new") != 1 {
		t.Errorf("told of %d old and %d new tokens, want one each", invalidated(t, c, "old"), invalidated(t, c, "new"))
	}
}

func TestOldWritersAreScrubbedAfterTheWholeUpgrade(t *testing.T) {
	t.Parallel()
	dsn := rolling(t)
	migrate(t, dsn, postgres.MigrateOptions{})
	c := connect(t, dsn, "")
	mustExec(t, c, "INSERT INTO sessions (user_id, session_token, expires_at) VALUES (1, 'plain-token-late', NOW() + INTERVAL '1 day')")
	mustExec(t, c, "INSERT INTO streams (user_id, name, stream_key, stream_url) VALUES (1, 'n', 'plain-key-late', 'rtmp://h/plain-key-late')")
	mustExec(t, c, "UPDATE sessions SET last_activity = NOW()")
	mustExec(t, c, "UPDATE streams SET viewer_count = 1")
	if found := plain(pgDump(t, dsn)); found != nil {
		t.Errorf("the dump holds %v", found)
	}
	for _, check := range []string{
		"select count(*) = 1 from sessions where token_hash = sha256('plain-token-late')",
		"select count(*) = 1 from streams where stream_key_hash = sha256('plain-key-late')",
		"select count(*) = 0 from sessions where session_token <> 'h1:' || encode(token_hash, 'hex')",
		"select count(*) = 1 from sessions where token_hash = sha256('plain-token-live-1')",
		"select count(*) = 0 from sessions where token_hash = sha256(convert_to(session_token, 'UTF8'))", // the hash is no token
	} {
		if !value[bool](t, c, check) {
			t.Errorf("not: %s", check)
		}
	}
}

func TestOldWritersMayLookElsewhere(t *testing.T) {
	t.Parallel()
	dsn := rolling(t)
	migrate(t, dsn, postgres.MigrateOptions{})
	c := connect(t, dsn, "")
	mustExec(t, c, "set search_path = ''")
	mustExec(t, c, "INSERT INTO public.users (username, email, password_hash) VALUES ('x', 'x@example.org', 'x')")
	mustExec(t, c, "INSERT INTO public.sessions (user_id, session_token, expires_at) VALUES (1, 'y', NOW() + INTERVAL '1 day')")
	mustExec(t, c, "UPDATE public.sessions SET is_active = FALSE WHERE user_id = 1")
	mustExec(t, c, "UPDATE public.streams SET stream_key = 'z'  WHERE id = 1")
	mustExec(t, c, "DELETE FROM public.users WHERE id = 4")
	if n := value[int](t, c, "select public.import_event_log(10)"); n != 0 {
		t.Errorf("imported %d events, want none left", n)
	}
}

func TestABulkInsertOfAnOldWriterFits(t *testing.T) {
	t.Parallel()
	dsn := rolling(t)
	mustExec(t, connect(t, dsn, ""), `INSERT INTO users (username, email, password_hash)
		SELECT 'bulk' || n, 'bulk' || n || '@example.org', 'x' FROM generate_series(1, 20000) n`)
}

func TestATakenNameIsOneViolationHoweverItIsSpelt(t *testing.T) {
	t.Parallel()
	dsn := rolling(t) // whose own constraints have other names
	db := postgrestest.Open(t, postgres.Config{DSN: dsn})
	for _, tt := range []struct{ name, email, want string }{
		{"ada", "new@example.org", "users_username_lower_key"},    // as it is
		{"aDa", "new@example.org", "users_username_lower_key"},    // in another case
		{"HOPPER", "new@example.org", "users_username_lower_key"}, // a twin's own name
		{"new", "GRACE@example.org", "users_email_lower_key"},
		{"new", "THIRD@example.org", "users_email_lower_key"}, // a twin's own address
		{"zoË", "new@example.org", "users_username_lower_key"},
		{"ada", "ada@example.org", "users_username_lower_key"},
		{"new", "new@example.org", ""},
	} {
		_, err := db.Exec(t.Context(), "insert into users (username, email, password_hash) values ($1, $2, 'x')", tt.name, tt.email)
		if tt.want == "" && err != nil || tt.want != "" && !postgres.Violates(err, tt.want) {
			t.Errorf("%s, %s: %v, want a violation of %q", tt.name, tt.email, err, tt.want)
		}
		if tt.want != "" && !postgres.UniqueViolation(err, "users") {
			t.Errorf("%s, %s: not a unique violation of users", tt.name, tt.email)
		}
	}
	if _, err := db.Exec(t.Context(), "update users set email = 'Ada@Example.org' where username = 'new'"); !postgres.Violates(err, "users_email_lower_key") {
		t.Errorf("taking an address by an update: %v", err)
	}
	if _, err := db.Exec(t.Context(), "update users set username = 'New', display_name = 'n' where username = 'new'"); err != nil {
		t.Errorf("respelling one's own name: %v", err)
	}
}

func TestParallelTwinsAreAllKept(t *testing.T) {
	t.Parallel()
	dsn := rolling(t)
	spellings := []string{"racer", "Racer", "rAcer", "raCer", "racEr", "raceR", "RAcer", "rACer"}
	done := make(chan error)
	for i, name := range spellings {
		c := connect(t, dsn, "")
		go func() {
			_, err := c.Exec(context.Background(), "INSERT INTO users (username, email, password_hash) VALUES ($1, $2, 'x')",
				name, string(rune('a'+i))+"@example.org")
			done <- err
		}()
	}
	for range spellings {
		if err := <-done; err != nil {
			pe, _ := errors.AsType[*pgconn.PgError](err)
			t.Errorf("an old writer's insert: %v (%v)", err, pe)
		}
	}
	c := connect(t, dsn, "")
	if n := value[int](t, c, "select count(*) from users where lower(username) = 'racer' and not is_case_duplicate"); n != 1 {
		t.Errorf("%d of them own the name, want 1", n)
	}
}
