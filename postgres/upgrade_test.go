package postgres_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func TestUpgradeKeepsEveryRow(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		make func(*testing.T, string) string
		opt  postgres.MigrateOptions
	}{
		"rolling, the zone is the database's default": {legacy, postgres.MigrateOptions{Rolling: true}},
		"rolling, the zone is named":                  {legacyElsewhere, postgres.MigrateOptions{Rolling: true, LegacyTimezone: newYork}},
		"whole, the zone is the database's default":   {legacy, postgres.MigrateOptions{}},
		"whole, the zone is named":                    {legacyElsewhere, postgres.MigrateOptions{LegacyTimezone: newYork}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := tt.make(t, postgrestest.Empty(t))
			before := map[string][]row{}
			for _, table := range legacyTables {
				before[table] = rows(t, dsn, table)
			}
			migrate(t, dsn, tt.opt)
			for _, table := range legacyTables {
				declare(before[table], table, !tt.opt.Rolling)
				after := rows(t, dsn, table)
				if len(after) != len(before[table]) {
					t.Errorf("%s has %d rows, had %d", table, len(after), len(before[table]))
					continue
				}
				for i, want := range before[table] {
					if diff := cmp.Diff(want, asBefore(after[i], want)); diff != "" {
						t.Errorf("%s %v (-before +after):\n%s", table, want["id"], diff)
					}
				}
			}
		})
	}
}

// declare writes into the rows of before what an upgrade says it changes.
func declare(before []row, table string, scrubbed bool) {
	skipped := map[string]string{ // the hour that never was is read as the one after it, as PostgreSQL always did
		"2026-03-08T02:30:00": "2026-03-08T03:30:00", "2026-03-08T02:45:00": "2026-03-08T03:45:00",
	}
	h1 := func(s any) string {
		sum := sha256.Sum256([]byte(s.(string)))
		return "h1:" + hex.EncodeToString(sum[:])
	}
	key1, key2, token1 := h1("plain-key-1"), h1("plain-key-2"), h1("plain-token-live-1")
	for _, r := range before {
		for name, v := range r {
			if s, ok := v.(string); ok && skipped[s] != "" {
				r[name] = skipped[s]
			}
		}
		id := int(r["id"].(float64))
		switch {
		case table == "sessions" && id == 7: // it kept its distance from its end
			r["created_at"] = "2026-03-08T01:30:00"
		case table == "stream_sessions" && id == 3:
			r["session_start"] = "2026-03-08T01:15:00"
		}
		if !scrubbed {
			continue
		}
		switch {
		case table == "sessions":
			r["session_token"] = h1(r["session_token"])
		case table == "streams":
			r["stream_key"] = h1(r["stream_key"])
			if id == 1 {
				r["stream_url"] = "rtmp://ingest.example.org/live/{stream_key}"
			}
		case table == "event_log" && id == 5:
			r["event_data"] = row{"stream_key": key1, "tags": []any{1., 2.5, "x"}, "nested": row{"where": []any{key1}}}
		case table == "event_log" && id == 7:
			r["event_data"] = row{"token": token1}
		case table == "snapshots" && id == 2:
			r["state"].(row)["stream_key"] = key1
		case table == "snapshots" && id == 3:
			r["state"].(row)["streamKey"] = key2
		}
	}
}

func TestUpgradeReadsLocalTimesAsInstants(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{
		"default": legacy(t, postgrestest.Empty(t)),
		"named":   legacyElsewhere(t, postgrestest.Empty(t)),
	} {
		live := value[time.Time](t, connect(t, dsn, newYork), "select expires_at::timestamptz from sessions where id = 1")
		opt := postgres.MigrateOptions{Rolling: true}
		if name == "named" {
			opt.LegacyTimezone = newYork
		}
		migrate(t, dsn, opt)
		c := connect(t, dsn, "Asia/Tokyo") // whoever asks
		for _, tt := range []struct{ what, want string }{
			{"created_at from users where id = 1", "2025-06-01T16:00:00Z"},                 // summer
			{"last_login_at from users where id = 1", "2025-12-01T14:00:00Z"},              // winter
			{"created_at from users where id = 4", "2025-11-02T04:59:59Z"},                 // the last second before
			{"updated_at from users where id = 4", "2025-11-02T06:30:00Z"},                 // the repeated hour: standard time
			{"last_login_at from users where id = 4", "2025-11-02T07:00:00Z"},              // after it
			{"created_at from users where id = 5", "2026-03-08T06:59:59.999999Z"},          // the last instant before
			{"updated_at from users where id = 5", "2026-03-08T07:30:00Z"},                 // the hour that never was
			{"last_login_at from users where id = 5", "2026-03-08T07:00:00Z"},              // the first instant after
			{"expires_at from sessions where id = 4", "2025-11-02T06:30:00Z"},              // as 24.2 compared it with now()
			{"expires_at from sessions where id = 6", "2026-03-08T07:30:00Z"},              //
			{"created_at from sessions where id = 7", "2026-03-08T06:30:00Z"},              // 40 minutes before its end, as ever
			{"expires_at from sessions where id = 7", "2026-03-08T07:10:00Z"},              //
			{"session_start from stream_sessions where id = 3", "2026-03-08T06:15:00Z"},    //
			{"ended_at from streams where id = 2", "2026-03-08T07:30:00Z"},                 //
			{"expires_at from recordings where id = 1", "2026-11-01T06:30:00Z"},            //
			{"created_at from usage_logs where id = 3", "2026-07-01T16:00:00Z"},            //
			{"updated_at from billing_accounts where id = 1", "2025-10-02T04:00:00Z"},      //
			{"timestamp from event_log where id = 1", "2025-06-01T16:00:00Z"},              //
			{"created_at from snapshots where id = 1", "2025-11-02T06:41:00Z"},             //
			{"expires_at from sessions where id = 1", live.UTC().Format(time.RFC3339Nano)}, //
		} {
			if got := value[time.Time](t, c, "select "+tt.what).UTC().Format(time.RFC3339Nano); got != tt.want {
				t.Errorf("%s: %s is %s, want %s", name, tt.what, got, tt.want)
			}
		}
	}
}

func TestUpgradeShape(t *testing.T) {
	t.Parallel()
	dsn := rolling(t)
	c := connect(t, dsn, "")
	for _, tt := range []struct{ what, sql, want string }{
		{"sessions.id", "select format_type(atttypid, 0) from pg_attribute where attrelid = 'sessions'::regclass and attname = 'id'", "bigint"},
		{"its sequence", "select data_type::text from pg_sequences where sequencename = 'session_numbers'", "bigint"},
		{"its greatest number", "select max_value::text from pg_sequences where sequencename = 'session_numbers'", "9223372036854775807"},
		{"local times left", `select coalesce(string_agg(attrelid::regclass || '.' || attname, ', '), '')
			from pg_attribute join pg_class c on c.oid = attrelid
			where relnamespace = 'public'::regnamespace and relkind = 'r' and atttypid = 'timestamp'::regtype
			and relname not like 'goose%'`, ""},
		{"hashes that are not of the token", "select count(*)::text from sessions where token_hash <> sha256(convert_to(session_token, 'UTF8'))", "0"},
		{"hashes that are not of the key", "select count(*)::text from streams where stream_key_hash <> sha256(convert_to(stream_key, 'UTF8'))", "0"},
		{"twins", "select string_agg(id::text, ' ' order by id) from users where is_case_duplicate", "2 3 5 9"},
		{"twins reported", "select string_agg(row_id::text, ' ' order by row_id) from adoption_findings where kind = 'case_duplicate'", "2 3 5 9"},
		{"the zone on record", "select value from adoption_facts where name = 'legacy_timezone'", newYork},
		{"triggers before updates of users", `select string_agg(tgname, ' ' order by tgname) from pg_trigger
			where tgrelid = 'users'::regclass and not tgisinternal and tgtype & 19 = 19`, "users_adopt users_keep_email users_touch"},
		{"the default of a time", "select column_default from information_schema.columns where table_name = 'users' and column_name = 'created_at'", "CURRENT_TIMESTAMP"},
		{"checks that hold", "select count(*)::text from pg_constraint where conname in ('valid_expiration', 'valid_session_time', 'valid_file_size', 'email_format') and convalidated", "4"},
		{"indexes of 24.2 left", "select count(*)::text from pg_indexes where indexname like 'ix_%'", "28"},
	} {
		if got := value[string](t, c, tt.sql); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
}

func TestUpgradeImportsTheEventLog(t *testing.T) {
	t.Parallel()
	dsn := rolling(t)
	found, _ := connect(t, dsn, "").Query(context.Background(), `select e.legacy_id, e.aggregate_type || ' ' || e.version || ' ' || e.name
		|| coalesce(' of ' || u.username, '') || case when e.aggregate_id = o.public_id then ' himself' else '' end
		from events e left join users u on u.public_id = e.user_id
		left join users o on o.id = 1 order by e.legacy_id`)
	type imported struct {
		ID   int64
		What string
	}
	got, err := pgx.CollectRows(found, pgx.RowToStructByPos[imported])
	if err != nil {
		t.Fatal(err)
	}
	want := []imported{
		{1, "user 1 UserCreated of ada himself"},
		{2, "user 2 UserVerified of ada himself"},
		{3, "user 3 ProfileUpdated of ada himself"},
		{4, "user 4 UserLoggedIn of ada himself"},
		{5, "stream 1 StreamCreated of ada"},
		{6, "stream 2 StreamStarted of ada"},
		{7, "session 1 SessionCreated of ada"},
		{8, "user 1 UserCreated"},
		{9, "user 2 UserDeleted"},
		{10, "stream 1 StreamDeleted of grace"},
		{11, "unknown 1 unknown"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	c := connect(t, dsn, "")
	if got := value[string](t, c, "select string_agg(row_id::text, ' ' order by row_id) from adoption_findings where kind = 'event_version'"); got != "3 4 10 11" {
		t.Errorf("renumbered events reported: %s, want 3 4 10 11", got)
	}
}

func TestWholeUpgradeLeavesNoPlainTokenOrKey(t *testing.T) {
	t.Parallel()
	srv := postgrestest.Server(t, "autovacuum=off")
	dsn := legacy(t, srv.Database("legacy"))
	c := connect(t, dsn, "")
	mustExec(t, c, "analyze") // samples of the tokens get into the statistics
	hashes := value[[]string](t, c, "select array_agg(encode(sha256(convert_to(session_token, 'UTF8')), 'hex') order by id) from sessions")
	migrate(t, dsn, postgres.MigrateOptions{Rolling: true})
	if found := plain(pgDump(t, dsn)); len(found) != 3 {
		t.Errorf("after the rolling upgrade the dump holds %v, want all three kinds", found)
	}
	migrate(t, dsn, postgres.MigrateOptions{})
	if found := plain(pgDump(t, dsn)); found != nil {
		t.Errorf("after the whole upgrade the dump holds %v", found)
	}
	c = connect(t, dsn, "")
	if got := value[[]string](t, c, "select array_agg(encode(token_hash, 'hex') order by id) from sessions"); !cmp.Equal(got, hashes) {
		t.Error("the hashes of the sessions changed: their tokens are dead")
	}
	if got := value[int](t, c, "select count(*) from adoption_findings where kind = 'key_in_path'"); got != 2 {
		t.Errorf("%d paths with a key reported, want 2", got)
	}
	mustExec(t, c, "checkpoint")
	oid := value[string](t, c, "select oid::text from pg_database where datname = current_database()")
	err := filepath.WalkDir(filepath.Join(srv.Dir(), "base", oid), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if found := plain(string(content)); err == nil && found != nil {
			t.Errorf("file %s (%s) still holds %v", filepath.Base(path),
				value[string](t, c, "select coalesce((select string_agg(relname, ' ') from pg_class where pg_relation_filenode(oid) = $1::text::oid), '?')", filepath.Base(path)), found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMigratingAgainDoesNothing(t *testing.T) {
	t.Parallel()
	dsn := legacy(t, postgrestest.Empty(t))
	if steps := migrate(t, dsn, postgres.MigrateOptions{Rolling: true}); len(steps) < 8 {
		t.Errorf("the first run applied %d steps", len(steps))
	}
	if steps := migrate(t, dsn, postgres.MigrateOptions{Rolling: true}); len(steps) != 0 {
		t.Errorf("the second rolling run applied %v", steps)
	}
	if steps := migrate(t, dsn, postgres.MigrateOptions{}); len(steps) != 2 || steps[0].Kind != "contract" {
		t.Errorf("the whole run after it applied %v, want the two steps that contract", steps)
	}
	before := pgDump(t, dsn)
	for _, opt := range []postgres.MigrateOptions{{}, {Rolling: true}, {LegacyTimezone: newYork}} {
		if steps := migrate(t, dsn, opt); len(steps) != 0 {
			t.Errorf("Migrate(%+v) applied %v", opt, steps)
		}
	}
	if diff := cmp.Diff(before, pgDump(t, dsn)); diff != "" {
		t.Errorf("migrating again changed the database:\n%s", diff)
	}
	_, err := postgres.Migrate(t.Context(), dsn, postgres.MigrateOptions{LegacyTimezone: "Europe/Paris"})
	if !errors.Is(err, postgres.ErrTimezoneRecorded) {
		t.Errorf("another zone afterwards = %v, want ErrTimezoneRecorded", err)
	}
}
