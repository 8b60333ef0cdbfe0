package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/auth"
	"rootstream/notify"
	"rootstream/user"
)

var userKeys = []string{
	"id", "username", "email", "display_name", "avatar_url", "role", "verified", "active", "created_at", "updated_at", "last_login_at",
}

func TestSigningUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.do("POST", "/v1/users", object{"username": "ada", "email": "ada@example.org", "password": password}).want(201)
	made.keys("", userKeys...)
	if made.at("username") != "ada" || made.at("role") != "user" || made.at("verified") != false {
		t.Errorf("the new account: %s", made.body)
	}
	w.do("POST", "/v1/users", object{"username": "ADA", "email": "other@example.org", "password": password}).problem(409, "username_taken")
	w.do("POST", "/v1/users", object{"username": "x", "email": "nobody", "password": "short"}).
		problem(422, "invalid").names("username").names("email").names("password")

	taken := w.do("POST", "/v1/users", object{"username": "eve", "email": "Ada@example.org", "password": password}).want(201)
	sameShape(t, made, taken)
	id, err := uuid.Parse(taken.text("id"))
	if err != nil || id.Version() != 7 {
		t.Errorf("the id of an account that was not made is no plausible one: %v", id)
	}
	if w.mails(notify.TopicRegisterAttempt) != 1 {
		t.Error("the owner of a taken address gets no mail")
	}

	token := w.mailed(notify.TopicVerifyEmail)
	w.do("POST", "/v1/users/verify", object{"token": token}).want(204)
	w.do("POST", "/v1/users/verify", object{"token": token}).problem(410, "token_gone")
	session := w.login("ada").text("token")
	if me := w.do("GET", "/v1/users/me", nil, as(session)).want(200); me.at("verified") != true {
		t.Errorf("a verified account: %s", me.body)
	}
	w.do("POST", "/v1/users/me/verification", nil, as(session)).want(202)
}

// sameShape compares two answers by names, and by values that tell nothing apart.
func sameShape(t *testing.T, a, b answer) {
	t.Helper()
	blank := func(x answer) (object, http.Header) {
		o, h := x.json(), x.header.Clone()
		for _, k := range []string{"id", "username", "email", "created_at", "updated_at"} {
			o[k] = len(o[k].(string)) > 0
		}
		for _, k := range []string{"Date", "X-Request-Id", "Content-Length"} {
			h.Del(k)
		}
		return o, h
	}
	oa, ha := blank(a)
	ob, hb := blank(b)
	if diff := cmp.Diff(oa, ob); diff != "" {
		t.Errorf("bodies differ:\n%s", diff)
	}
	if diff := cmp.Diff(ha, hb); diff != "" {
		t.Errorf("headers differ:\n%s", diff)
	}
}

func TestOwnAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	w.do("GET", "/v1/users/me", nil, as(token)).want(200).keys("", userKeys...)
	changed := w.do("PATCH", "/v1/users/me", object{"display_name": "Ada L.", "avatar_url": "https://example.org/a.png"}, as(token)).want(200).keys("", userKeys...)
	if changed.at("display_name") != "Ada L." {
		t.Errorf("after the change: %s", changed.body)
	}
	w.do("PATCH", "/v1/users/me", object{"avatar_url": "javascript:alert(1)"}, as(token)).problem(422, "invalid").names("avatar_url")

	export := w.do("GET", "/v1/users/me/export", nil, as(token)).want(200)
	for _, part := range []string{"account", "sessions", "factors", "attempts", "audit"} {
		if _, there := export.json()[part]; !there {
			t.Errorf("the export has no %s: %s", part, export.body)
		}
	}
	if body := string(export.body); strings.Contains(body, "$argon2") || strings.Contains(body, token) {
		t.Error("an export holds a secret")
	}

	other := w.login("ada").text("token")
	w.do("PUT", "/v1/users/me/password", object{"current_password": "wrong horse battery staple", "new_password": "another long password"}, as(token)).
		problem(401, "invalid_credentials")
	w.do("PUT", "/v1/users/me/password", object{"current_password": password, "new_password": "short"}, as(token)).problem(422, "invalid").names("new_password")
	changed = w.do("PUT", "/v1/users/me/password", object{"current_password": password, "new_password": "another long password"}, as(token)).want(200).keys("", "token", "session")
	w.do("GET", "/v1/users/me", nil, as(other)).problem(401, "unauthenticated")
	w.do("GET", "/v1/users/me", nil, as(token)).problem(401, "unauthenticated")
	if c := changed.cookie("rootstream"); c.Value != changed.text("token") {
		t.Errorf("the cookie holds the old token: %v", c)
	}
	token = changed.text("token")
	w.do("GET", "/v1/users/me", nil, as(token)).want(200)

	gone := w.do("DELETE", "/v1/users/me", nil, as(token)).want(204)
	if c := gone.cookie("rootstream"); c.MaxAge >= 0 || c.Value != "" {
		t.Errorf("the cookie stays: %v", c)
	}
	w.do("GET", "/v1/users/me", nil, as(token)).problem(401, "unauthenticated")
}

func TestAuditTrailPagesWithoutLosingAnything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	for range 5 {
		w.do("PATCH", "/v1/users/me", object{"display_name": "Ada"}, as(token)).want(200)
		w.do("PATCH", "/v1/users/me", object{"display_name": ""}, as(token)).want(200)
	}
	for _, when := range []string{"at", "date_trunc('hour', at)"} { // at last, many in one microsecond
		_, err := w.db.Exec(t.Context(), `update events set at = `+when)
		must(t, err)
		want := w.do("GET", "/v1/users/me/audit", nil, as(token)).want(200).keys("", "items").at("items").([]any)
		if len(want) < 12 {
			t.Fatalf("only %d events", len(want))
		}
		var have []any
		for cursor, pages := "", 0; ; pages++ {
			if pages > len(want) {
				t.Fatal("the pages never end")
			}
			page := w.do("GET", "/v1/users/me/audit?limit=3&cursor="+cursor, nil, as(token)).want(200)
			have = append(have, page.at("items").([]any)...)
			next, more := page.json()["next_cursor"].(string)
			if !more {
				break
			}
			cursor = next
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("by pages (-whole +pages):\n%s", diff)
		}
	}
	for _, cursor := range []string{"x", "LTE", "MTc5MDAwMDAwMDAwMDAwMA", "AAAAAAAAAAEQAAAAAAAAAAE", "_____________________w", "AAAAAAAAAAEPAAAAAAAAAAE%0A"} {
		w.do("GET", "/v1/users/me/audit?cursor="+cursor, nil, as(token)).problem(422, "invalid").names("cursor")
	}
	w.do("GET", "/v1/users/me/audit?cursor=AAAAAAAAAAEPAAAAAAAAAAE", nil, as(token)).want(200) // the beginning of time
	w.do("GET", "/v1/users/me/audit?cursor=f_________8Pf_________8", nil, as(token)).want(200) // its end
}

func TestRecovery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	known := w.do("POST", "/v1/auth/recovery", object{"login": "ada"}).want(202)
	unknown := w.do("POST", "/v1/auth/recovery", object{"login": "nobody"}).want(202)
	if string(known.body) != string(unknown.body) {
		t.Errorf("recovery tells whether an account exists: %s, %s", known.body, unknown.body)
	}
	link := w.mailed(auth.TopicRecovery)
	const next = "an entirely new password"
	w.do("POST", "/v1/auth/recovery/confirm", object{"token": link, "password": "short"}).problem(422, "invalid").names("password")
	w.do("POST", "/v1/auth/recovery/confirm", object{"token": link, "password": next}).want(204)
	w.do("POST", "/v1/auth/recovery/confirm", object{"token": link, "password": next}).problem(410, "token_gone")
	w.do("GET", "/v1/users/me", nil, as(token)).problem(401, "unauthenticated")
	w.do("POST", "/v1/auth/login", object{"login": "ada", "password": next}).want(200)
}

func TestFirstAdministrator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	setup, err := w.auth.IssueSetupToken(t.Context())
	must(t, err)
	in := object{"token": "sut_wrong", "username": "root", "email": "root@example.org", "password": password}
	w.do("POST", "/v1/setup", in).problem(410, "token_gone")
	in["token"] = setup.Reveal()
	made := w.do("POST", "/v1/setup", in).want(201).keys("", userKeys...)
	if made.at("role") != "admin" {
		t.Errorf("the first administrator: %s", made.body)
	}
	w.do("POST", "/v1/setup", in).problem(409, "admin_exists")
}

func TestAdministeringAccounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := w.actor("root", user.RoleAdmin, 1, false)
	made := w.do("POST", "/v1/admin/users", object{"username": "bob", "email": "bob@example.org", "password": password, "role": "operator", "verified": true}, as(admin.token)).
		want(201).keys("", userKeys...)
	bob := "/v1/admin/users/" + made.text("id")
	w.do("POST", "/v1/admin/users", object{"username": "bob2", "email": "bob@example.org", "password": password}, as(admin.token)).problem(409, "email_taken")
	w.do("GET", bob, nil, as(admin.token)).want(200).keys("", userKeys...)
	w.do("GET", "/v1/admin/users/"+uuid.NewString(), nil, as(admin.token)).problem(404, "user_not_found")
	page := w.do("GET", "/v1/admin/users?limit=1", nil, as(admin.token)).want(200).keys("", "items", "next_cursor")
	rest := w.do("GET", "/v1/admin/users?limit=1&cursor="+page.text("next_cursor"), nil, as(admin.token)).want(200).keys("", "items")
	if page.at("items.0.id") == rest.at("items.0.id") {
		t.Error("two pages hold the same account")
	}
	for query, n := range map[string]int{"role=operator": 1, "active=false": 0, "verified=true": 1, "search=bo": 1} {
		if have := len(w.do("GET", "/v1/admin/users?"+query, nil, as(admin.token)).want(200).at("items").([]any)); have != n {
			t.Errorf("%s finds %d accounts, want %d", query, have, n)
		}
	}

	session := w.login("bob").text("token")
	if list := w.do("GET", bob+"/sessions", nil, as(admin.token)).want(200).keys("", "items"); len(list.at("items").([]any)) != 1 {
		t.Errorf("bob's sessions: %s", list.body)
	}
	one := w.do("GET", bob+"/sessions", nil, as(admin.token)).text("items.0.id")
	w.do("GET", "/v1/admin/sessions/"+one, nil, as(admin.token)).want(200)
	w.do("DELETE", "/v1/admin/sessions/"+one, nil, as(admin.token)).want(204)
	w.do("GET", "/v1/users/me", nil, as(session)).problem(401, "unauthenticated")
	w.login("bob")
	if n := w.do("DELETE", bob+"/sessions", nil, as(admin.token)).want(200).keys("", "revoked").at("revoked"); n != float64(1) {
		t.Errorf("%v sessions ended, want 1", n)
	}

	if w.do("PUT", bob+"/role", object{"role": "user"}, as(admin.token)).want(200).at("role") != "user" {
		t.Error("the role stays")
	}
	w.do("PUT", "/v1/admin/users/"+admin.user.PublicID.String()+"/role", object{"role": "user"}, as(admin.token)).problem(409, "last_admin")
	if w.do("POST", bob+"/disable", nil, as(admin.token)).want(200).at("active") != false {
		t.Error("a disabled account is active")
	}
	w.do("POST", "/v1/auth/login", object{"login": "bob", "password": password}).problem(401, "invalid_credentials")
	w.do("POST", bob+"/enable", nil, as(admin.token)).want(200)
	w.do("POST", bob+"/verify", nil, as(admin.token)).want(200)

	f := w.enroll(w.login("bob").text("token"))
	if status := w.do("GET", bob+"/mfa", nil, as(admin.token)).want(200); status.at("enabled") != true {
		t.Errorf("bob's factors: %s", status.body)
	}
	w.do("POST", bob+"/mfa/resume", nil, as(admin.token)).want(204)
	w.do("DELETE", bob+"/mfa", nil, as(admin.token)).want(204)
	if w.login("bob").json()["mfa_required"] != nil {
		t.Errorf("the factor %s is still asked for", f.id)
	}
	w.do("DELETE", bob, nil, as(admin.token)).want(204)
	w.do("GET", bob, nil, as(admin.token)).problem(404, "user_not_found")
}

func TestEventsOfAnEntity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob := w.token("ada"), w.token("bob")
	me := w.do("GET", "/v1/users/me", nil, as(ada)).text("id")
	query := "/v1/events?aggregate_type=user&aggregate_id=" + me
	all := w.do("GET", query, nil, as(ada)).want(200).keys("", "items")
	first := all.keys("items.0", "aggregate_type", "aggregate_id", "version", "name", "data", "user_id", "at")
	if first.at("items.0.name") != "user.created" || first.at("items.0.version") != float64(1) {
		t.Errorf("the first event: %s", first.body)
	}
	if _, isObject := first.at("items.0.data").(object); !isObject {
		t.Errorf("data is no object: %s", first.body)
	}
	if _, err := time.Parse(time.RFC3339, first.text("items.0.at")); err != nil {
		t.Error(err)
	}
	page := w.do("GET", query+"&limit=1", nil, as(ada)).want(200).keys("", "items", "next_version")
	if page.at("next_version") != float64(2) {
		t.Errorf("next_version: %s", page.body)
	}
	// Beyond the end there is nothing, and it is still hers.
	if end := w.do("GET", query+"&from_version=1000", nil, as(ada)).want(200); len(end.at("items").([]any)) != 0 {
		t.Errorf("beyond the end: %s", end.body)
	}
	w.do("GET", query, nil, as(bob)).problem(404, "entity_not_found")
	w.do("GET", "/v1/events?aggregate_type=user&aggregate_id="+uuid.NewString(), nil, as(bob)).problem(404, "entity_not_found")
	operator := w.actor("operator", user.RoleOperator, 1, false)
	w.do("GET", query, nil, as(operator.token)).want(200)
	session := w.do("GET", "/v1/sessions", nil, as(ada)).text("items.0.id")
	w.do("GET", "/v1/events?aggregate_type=session&aggregate_id="+session, nil, as(ada)).want(200)
	w.do("GET", "/v1/events?aggregate_type=session&aggregate_id="+session, nil, as(bob)).problem(404, "entity_not_found")
}

// The first event of a stream says whose it was, which counts once it is gone.
func TestStreamHistoryFollowsItsOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob := w.token("ada"), w.token("bob")
	id := w.do("POST", "/v1/streams", object{"name": "s", "is_public": false}, as(ada)).want(201).text("id")
	query := "/v1/events?aggregate_type=stream&aggregate_id=" + id
	w.do("GET", query, nil, as(ada)).want(200)
	_, err := w.db.Exec(t.Context(), `update streams set user_id = (select id from users where username = 'bob')`)
	must(t, err)
	w.do("GET", query, nil, as(ada)).problem(404, "entity_not_found")
	w.do("GET", query, nil, as(bob)).want(200)
	_, err = w.db.Exec(t.Context(), `delete from streams`)
	must(t, err)
	w.do("GET", query, nil, as(ada)).want(200)
	w.do("GET", query, nil, as(bob)).problem(404, "entity_not_found")
}

func TestStreamHistoryIsItsOwners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob := w.token("ada"), w.token("bob")
	id := w.do("POST", "/v1/streams", object{"name": "s"}, as(ada)).want(201).text("id")
	query := "/v1/events?aggregate_type=stream&aggregate_id=" + id
	// Somebody watched: an event of the stream that belongs to somebody else's trail.
	_, err := w.db.Exec(t.Context(), `insert into events (shard, seq, aggregate_type, aggregate_id, version, name, data, user_id)
		select shard, seq + 1000, aggregate_type, aggregate_id, version + 1, 'viewer.joined', '{}', (select public_id from users where username = 'bob')
		from events where aggregate_type = 'stream' and aggregate_id = $1 order by version desc limit 1`, id)
	must(t, err)
	if list := w.do("GET", query, nil, as(ada)).want(200); len(list.at("items").([]any)) != 2 {
		t.Errorf("the owner sees %s", list.body)
	}
	w.do("GET", query, nil, as(bob)).problem(404, "entity_not_found") // although the stream is public
	w.do("DELETE", "/v1/streams/"+id, nil, as(ada)).want(204)
	w.do("GET", query, nil, as(ada)).want(200)
	w.do("GET", query, nil, as(bob)).problem(404, "entity_not_found")
}

func TestPitfall36NoAnswerHoldsASerialID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// Rows far from 1, so that a leaked id would be seen.
	for _, table := range []string{"users", "sessions", "streams"} {
		_, err := w.db.Exec(t.Context(), "alter table "+table+" alter column id restart with 7654321")
		if err != nil {
			_, err = w.db.Exec(t.Context(), "alter sequence "+table+"_id_seq restart with 7654321")
		}
		must(t, err)
	}
	token := w.token("ada")
	bodies := [][]byte{}
	for _, path := range []string{"/v1/users/me", "/v1/users/me/export", "/v1/users/me/audit", "/v1/sessions", "/v1/mfa", "/v1/mfa/attempts"} {
		bodies = append(bodies, w.do("GET", path, nil, as(token)).want(200).body)
	}
	bodies = append(bodies, w.do("POST", "/v1/streams", object{"name": "s"}, as(token)).want(201).body,
		w.do("POST", "/v1/sessions/validate", object{"token": token}).want(200).body)
	for _, b := range bodies {
		if strings.Contains(string(b), "7654321") || !json.Valid(b) {
			t.Errorf("a serial id leaves: %s", b)
		}
	}
}
