package api_test

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rootstream/user"
)

func TestSecondFactor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	w.do("GET", "/v1/mfa", nil, as(token)).want(200)
	made := w.do("POST", "/v1/mfa/totp", object{}, as(token)).want(201).keys("", "factor_id", "secret", "otpauth_uri", "qr_svg")
	if !strings.HasPrefix(made.text("otpauth_uri"), "otpauth://totp/") || !strings.Contains(made.text("otpauth_uri"), made.text("secret")) ||
		xml.Unmarshal([]byte(made.text("qr_svg")), new(struct{})) != nil || !strings.Contains(made.text("qr_svg"), "<svg") {
		t.Errorf("the enrolment: %s", made.body)
	}
	f := factor{w: w, id: made.text("factor_id"), secret: made.text("secret")}
	confirm := "/v1/mfa/totp/" + f.id + "/confirm"
	w.do("POST", confirm, object{"code": "000000"}, as(token)).problem(401, "invalid_code")
	w.do("POST", "/v1/mfa/totp/"+uuid.NewString()+"/confirm", object{"code": "000000"}, as(token)).problem(404, "factor_not_found")
	stranger := w.token("bob")
	w.do("POST", confirm, object{"code": f.next()}, as(stranger)).problem(404, "factor_not_found")
	code := f.next()
	confirmed := w.do("POST", confirm, object{"code": code}, as(token)).want(200).keys("", "backup_codes")
	if len(confirmed.at("backup_codes").([]any)) != 10 {
		t.Errorf("backup codes: %s", confirmed.body)
	}
	if me := w.do("POST", "/v1/sessions/validate", object{"token": token}); me.at("session.aal") != float64(1) {
		t.Errorf("confirming raised the session: %s", me.body)
	}
	w.do("POST", "/v1/auth/reauthenticate", object{"method": "totp", "code": code}, as(token)).problem(401, "invalid_code") // its step is used

	status := w.do("GET", "/v1/mfa", nil, as(token)).want(200)
	if status.at("enabled") != true || status.at("backup_codes_left") != float64(10) {
		t.Errorf("status: %s", status.body)
	}
	attempts := w.do("GET", "/v1/mfa/attempts?limit=1", nil, as(token)).want(200).keys("", "items", "next_cursor")
	w.do("GET", "/v1/mfa/attempts?limit=1&cursor="+attempts.text("next_cursor"), nil, as(token)).want(200)

	for _, call := range [][2]string{{"POST", "/v1/mfa/backup-codes"}, {"POST", "/v1/mfa/totp"}, {"DELETE", "/v1/mfa/totp/" + f.id}} {
		w.do(call[0], call[1], nil, as(token)).problem(403, "aal_required")
	}
	raised := w.do("POST", "/v1/auth/reauthenticate", object{"method": "totp", "code": f.next()}, as(token)).want(200).text("token")
	if codes := w.do("POST", "/v1/mfa/backup-codes", nil, as(raised)).want(200).keys("", "backup_codes"); len(codes.at("backup_codes").([]any)) != 10 {
		t.Errorf("new backup codes: %s", codes.body)
	}
	w.do("POST", "/v1/mfa/totp", nil, as(raised)).problem(409, "factor_exists")
	w.do("DELETE", "/v1/mfa/totp/"+uuid.NewString(), nil, as(raised)).problem(404, "factor_not_found")
	w.do("DELETE", "/v1/mfa/totp/"+f.id, nil, as(raised)).want(204)
	if status := w.do("GET", "/v1/mfa", nil, as(raised)).want(200); status.at("enabled") != false {
		t.Errorf("status after removing: %s", status.body)
	}
}

func TestAALRequiredSaysSoInTheHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stale := w.actor("ada", user.RoleUser, 1, true)
	p := w.do("POST", "/v1/mfa/totp", nil, as(stale.token)).problem(403, "aal_required")
	if h := p.header.Get("WWW-Authenticate"); !strings.Contains(h, "insufficient_user_authentication") {
		t.Errorf("WWW-Authenticate is %q", h)
	}
}

func TestPitfall27SecretsAreShownOnceAndNeverCached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	made := w.do("POST", "/v1/mfa/totp", nil, as(token)).want(201)
	f := factor{w: w, id: made.text("factor_id"), secret: made.text("secret")}
	codes := w.do("POST", "/v1/mfa/totp/"+f.id+"/confirm", object{"code": f.next()}, as(token)).want(200)
	live := w.do("POST", "/v1/streams", object{"name": "s"}, as(token)).want(201)
	for _, a := range []answer{made, codes, live} {
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be cached: %v", a.what, a.header)
		}
	}
	secrets := []string{made.text("secret"), live.text("stream_key"), codes.text("backup_codes.0"), token}
	token = w.do("POST", "/v1/auth/reauthenticate", object{"code": f.next()}, as(token)).want(200).text("token") // an export asks for it
	for _, path := range []string{"/v1/mfa", "/v1/mfa/attempts", "/v1/users/me/export", "/v1/users/me/audit", "/v1/sessions", "/v1/streams", "/v1/streams/" + live.text("id")} {
		later := w.do("GET", path, nil, as(token)).want(200)
		for _, s := range secrets {
			if strings.Contains(string(later.body), s) {
				t.Errorf("%s shows a secret again", path)
			}
		}
	}
	for _, s := range secrets {
		if strings.Contains(w.logged.String(), s) {
			t.Error("a secret is in the log")
		}
	}
}

var streamKeys = []string{
	"id", "user_id", "name", "description", "stream_url", "thumbnail_url", "is_live", "is_public", "viewer_count", "bitrate_kbps", "fps",
	"resolution", "codec", "created_at", "updated_at", "started_at", "ended_at",
}

func TestStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob := w.token("ada"), w.token("bob")
	made := w.do("POST", "/v1/streams", object{"name": "Friday night", "description": "games", "is_public": true}, as(ada)).want(201).keys("", with(streamKeys, "stream_key")...)
	path := "/v1/streams/" + made.text("id")
	w.do("GET", path, nil, as(ada)).want(200).keys("", streamKeys...)
	w.do("GET", path, nil, as(bob)).want(200)
	if list := w.do("GET", "/v1/streams?mine=true", nil, as(bob)).want(200).keys("", "items"); len(list.at("items").([]any)) != 0 {
		t.Errorf("bob's own streams: %s", list.body)
	}
	if list := w.do("GET", "/v1/streams?live=false", nil, as(bob)).want(200); len(list.at("items").([]any)) != 1 {
		t.Errorf("public streams: %s", list.body)
	}
	if w.do("PATCH", path, object{"name": "Saturday"}, as(ada)).want(200).at("name") != "Saturday" {
		t.Error("the name stays")
	}
	key := w.do("POST", path+"/key", nil, as(ada)).want(200).keys("", "stream_key").text("stream_key")
	if key == made.text("stream_key") {
		t.Error("the key stays")
	}
	w.do("PUT", path+"/stats", object{"bitrate_kbps": 4000}, as(ada)).problem(409, "not_live")
	w.do("POST", path+"/viewers", nil, as(bob)).problem(409, "not_live")
	w.do("POST", path+"/recordings", object{"file_path": "a.mp4", "file_size_bytes": 1}, as(ada)).problem(409, "no_session")
	w.do("POST", path+"/start", object{"bitrate_kbps": 3000}, as(ada)).want(200)
	w.do("POST", path+"/start", nil, as(ada)).problem(409, "already_live")
	w.do("DELETE", path, nil, as(ada)).problem(409, "stream_live")
	if live := w.do("PUT", path+"/stats", object{"bitrate_kbps": 4500, "fps": 60, "resolution": "1920x1080"}, as(ada)).want(200); live.at("bitrate_kbps") != float64(4500) || live.at("is_live") != true {
		t.Errorf("live: %s", live.body)
	}
	w.do("PUT", path+"/stats", object{"fps": -1, "resolution": "big"}, as(ada)).problem(422, "invalid").names("fps").names("resolution")

	watching := w.do("POST", path+"/viewers", nil, as(bob)).want(201).keys("", "viewer_id", "expires_in")
	if watching.at("expires_in") != float64(30) {
		t.Errorf("expires_in: %s", watching.body)
	}
	viewer := path + "/viewers/" + watching.text("viewer_id")
	w.do("PUT", viewer, nil, as(bob)).want(200).keys("", "viewer_id", "expires_in")
	w.do("PUT", viewer, nil, as(ada)).problem(404, "viewer_not_found")
	if n := w.do("GET", path+"/viewers", nil, as(ada)).want(200).keys("", "count", "peak", "total"); n.at("count") != float64(1) {
		t.Errorf("viewers: %s", n.body)
	}
	w.do("DELETE", viewer, nil, as(bob)).want(204)
	w.do("PUT", viewer, nil, as(bob)).problem(404, "viewer_not_found")

	stopped := w.do("POST", path+"/stop", nil, as(ada)).want(200)
	w.do("POST", path+"/stop", nil, as(ada)).problem(409, "not_live")
	if times := w.do("GET", path+"/sessions", nil, as(ada)).want(200).keys("", "items"); times.at("items.0.id") != stopped.at("id") {
		t.Errorf("when it was live: %s", times.body)
	}
	rec := w.do("POST", path+"/recordings", object{"file_path": "2026/a.mp4", "file_size_bytes": 1 << 40, "codec": "h264"}, as(ada)).want(201)
	if list := w.do("GET", path+"/recordings", nil, as(ada)).want(200).keys("", "items"); list.at("items.0.id") != rec.at("id") {
		t.Errorf("recordings: %s", list.body)
	}
	if used := w.do("GET", "/v1/users/me/usage", nil, as(ada)).want(200).keys("", "items"); used.at("items.0.stream_id") != made.at("id") {
		t.Errorf("usage: %s", used.body)
	}
	w.do("DELETE", path, nil, as(ada)).want(204)
	w.do("GET", path, nil, as(ada)).problem(404, "stream_not_found")
}

func TestForeignStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob := w.token("ada"), w.token("bob")
	for _, public := range []bool{true, false} {
		path := "/v1/streams/" + w.do("POST", "/v1/streams", object{"name": "s", "is_public": public}, as(ada)).want(201).text("id")
		for _, call := range [][2]string{
			{"DELETE", ""}, {"POST", "/key"}, {"POST", "/start"}, {"POST", "/stop"},
		} {
			w.do(call[0], path+call[1], nil, as(bob)).problem(404, "stream_not_found")
		}
		w.do("PATCH", path, object{"name": "mine"}, as(bob)).problem(404, "stream_not_found")
		w.do("PUT", path+"/stats", object{"fps": 1}, as(bob)).problem(404, "stream_not_found")
		w.do("POST", path+"/recordings", object{"file_path": "a", "file_size_bytes": 1}, as(bob)).problem(404, "stream_not_found")
		if !public {
			for _, below := range []string{"", "/viewers", "/sessions", "/recordings"} {
				w.do("GET", path+below, nil, as(bob)).problem(404, "stream_not_found")
			}
		}
	}
}

func TestWhoMustHaveAFactorMayOnlySetOneUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.auth.FactorRequired = true })
	w.do("POST", "/v1/users", object{"username": "ada", "email": "ada@example.org", "password": "k3ttle-9"}).want(201)
	token := w.do("POST", "/v1/auth/login", object{"login": "ada", "password": "k3ttle-9"}).want(200).text("token")
	_, err := w.db.Exec(t.Context(), `update users set role = 'admin'`)
	must(t, err)
	must(t, w.sessions.Poll(t.Context()))
	allowed := map[string]bool{
		"refresh": true, "forward-auth": true, "get-me": true, "logout": true, "reauthenticate": true, "mfa-status": true, "mfa-attempts": true, "enroll-totp": true,
		"confirm-totp": true, "remove-totp": true, "regenerate-backup-codes": true,
	}
	for _, op := range w.described().ops {
		if !op.people() || allowed[op.ID] {
			continue
		}
		path := strings.NewReplacer("{id}", uuid.NewString(), "{viewer_id}", uuid.NewString()).Replace(op.path)
		w.do(op.method, path, nil, as(token)).problem(403, "factor_required")
	}
	token = w.do("POST", "/v1/auth/reauthenticate", object{"password": "k3ttle-9"}, as(token)).want(200).text("token")
	w.do("GET", "/v1/users/me", nil, as(token)).want(200)
	f := w.enroll(token)
	w.do("GET", "/v1/mfa", nil, as(token)).want(200)
	w.do("GET", "/v1/streams", nil, as(token)).want(200)
	token = w.do("POST", "/v1/auth/reauthenticate", object{"code": f.next()}, as(token)).want(200).text("token")
	w.do("DELETE", "/v1/mfa/totp/"+f.id, nil, as(token)).problem(403, "factor_required")
	w.do("POST", "/v1/auth/logout", nil, as(token)).want(204)
}
