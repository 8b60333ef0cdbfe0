package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"rootstream/user"
)

func ifMatch(v string) tune { return withHeader("If-Match", v) }

func TestStateIsReadChangedAndRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	path := "/v1/state/note/" + uuid.NewString()
	w.do("GET", path, nil, as(token)).problem(404, "no_state")
	w.do("PATCH", path, object{"a": 1}, as(token)).problem(428, "if_match_required")
	w.do("PATCH", path, object{"a": 1}, as(token), ifMatch("*")).problem(412, "version_conflict")

	made := w.do("PATCH", path, `{"a":1,"big":9007199254740993,"deep":{"x":true,"y":"z"}}`, as(token), ifMatch(`"0"`)).want(200)
	if made.header.Get("ETag") != `"1"` || made.at("version") != 1.0 || made.text("token") != made.header.Get("X-State-Token") {
		t.Errorf("%v %s", made.header, made.body)
	}
	made.keys("", "type", "id", "version", "state", "token", "at")
	if !strings.Contains(string(made.body), "9007199254740993") {
		t.Errorf("a number was rounded: %s", made.body)
	}
	w.do("PATCH", path, object{"a": 1}, as(token), ifMatch(`"0"`)).problem(412, "version_conflict")
	changed := w.do("PATCH", path, `{"a":null,"deep":{"y":"w"}}`, as(token), ifMatch(`"1"`), withHeader("Content-Type", "application/merge-patch+json")).want(200)
	if got := changed.at("state"); fmt.Sprint(got) != "map[big:9.007199254740992e+15 deep:map[x:true y:w]]" {
		t.Errorf("%v", got)
	}

	for _, tokens := range []tune{withHeader("X-State-Token", changed.text("token")), func(*http.Request) {}} {
		read := w.do("GET", path, nil, as(token), tokens).want(200)
		if read.header.Get("ETag") != `"2"` || read.at("state.deep.y") != "w" || read.text("token") == "" {
			t.Errorf("%v %s", read.header, read.body)
		}
	}
	w.do("GET", path+"?token="+changed.text("token"), nil, as(token)).want(200)
	for tag, status := range map[string]int{`"2"`: 304, `W/"2"`: 304, `"1", "2"`: 304, `*`: 304, `"1"`: 200, `2`: 200} {
		if a := w.do("GET", path, nil, as(token), withHeader("If-None-Match", tag)).want(status); status == 304 && (len(a.body) > 0 || a.header.Get("ETag") != `"2"`) {
			t.Errorf("%s: %v %s", tag, a.header, a.body)
		}
	}
	first := w.do("GET", path+"?version=1", nil, as(token)).want(200)
	if first.at("state.a") != 1.0 || first.header.Get("ETag") != `"1"` {
		t.Errorf("%s", first.body)
	}
	if then := w.do("GET", path+"?at="+first.text("at"), nil, as(token)).want(200); then.at("version") != 1.0 {
		t.Errorf("%s", then.body)
	}
	w.do("GET", path+"?version=3", nil, as(token)).want(404)
	w.do("GET", path+"?at=2001-01-01T00:00:00Z", nil, as(token)).want(404)
}

func TestBadConditionsAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	path := "/v1/state/note/" + uuid.NewString()
	for _, bad := range []string{`7`, `W/"7"`, `"7", "8"`, `"seven"`, `"-1"`, `"07"`, `"`, `"99999999999999999999"`, `""`} {
		w.do("PATCH", path, object{"a": 1}, as(token), ifMatch(bad)).problem(422, "invalid").names("If-Match")
	}
	for _, bad := range []string{strings.Repeat("k", 65), "a b", "é"} {
		w.do("PATCH", path, object{"a": 1}, as(token), ifMatch(`"0"`), withHeader("Idempotency-Key", bad)).problem(422, "invalid").names("Idempotency-Key")
	}
	w.do("GET", path+"?token=made-up", nil, as(token)).problem(422, "invalid").names("token")
	w.do("GET", path, nil, as(token), withHeader("X-State-Token", "made-up")).problem(422, "invalid").names("X-State-Token")
	w.do("GET", path+"?version=1&at=2020-01-01T00:00:00Z", nil, as(token)).problem(422, "invalid").names("at")
	w.do("PATCH", path, object{"_v": 1}, as(token), ifMatch(`"0"`)).problem(422, "invalid").names("_v")
	w.do("PATCH", path, object{"a": 1}, as(token), ifMatch(`"0"`), withHeader("Content-Type", "application/json-patch+json")).want(415)
	w.do("PATCH", "/v1/users/me", object{}, as(token), withHeader("Content-Type", "application/merge-patch+json")).want(415)
	w.do("GET", "/v1/state/nothing/"+uuid.NewString(), nil, as(token)).problem(404, "unknown_type")
	w.do("PATCH", "/v1/state/mood/"+uuid.NewString(), object{}, as(token)).want(200)
	w.do("GET", path, nil, as(token)).want(404)
}

func TestAChangeUnderTheSameKeyHappensOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob := w.token("ada"), w.token("bob")
	path := "/v1/state/note/" + uuid.NewString()
	once := withHeader("Idempotency-Key", "order-7")
	w.do("PATCH", path, object{"n": 1}, as(ada), ifMatch(`"0"`), once).want(200)
	again := w.do("PATCH", path, object{"n": 1}, as(ada), ifMatch(`"0"`), once).want(200)
	if again.at("version") != 1.0 {
		t.Errorf("%s", again.body)
	}
	w.do("PATCH", path, object{"n": 2}, as(bob), ifMatch(`"1"`), once).want(200) // somebody else's key is another
	if now := w.do("GET", path, nil, as(ada)).want(200); now.at("version") != 2.0 || now.at("state.n") != 2.0 {
		t.Errorf("%s", now.body)
	}
}

func TestNoChangeIsLostAmongManyWriters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	token := w.token("ada")
	path := "/v1/state/note/" + uuid.NewString()
	w.do("PATCH", path, object{"n": 0}, as(token), ifMatch(`"0"`)).want(200)
	const writers, each = 8, 10
	var g sync.WaitGroup
	for range writers {
		g.Go(func() {
			for done := 0; done < each; {
				now := w.do("GET", path, nil, as(token))
				n, ok := now.at("state.n").(float64)
				if now.status != 200 || !ok {
					t.Errorf("%d %s", now.status, now.body)
					return
				}
				switch a := w.do("PATCH", path, object{"n": n + 1}, as(token), ifMatch(now.header.Get("ETag"))); a.status {
				case 200:
					done++
				case 412:
				default:
					t.Errorf("%d %s", a.status, a.body)
					return
				}
			}
		})
	}
	g.Wait()
	if now := w.do("GET", path, nil, as(token)); now.at("state.n") != float64(writers*each) || now.at("version") != float64(writers*each+1) {
		t.Errorf("%s", now.body)
	}
}

func TestWhoseStateItIsDecidesWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patient)
	ada, bob := w.actor("ada", user.RoleUser, 2, false), w.actor("bob", user.RoleUser, 2, false)
	op := w.actor("operator", user.RoleOperator, 2, false)
	stream := w.do("POST", "/v1/streams", object{"name": "s"}, as(ada.token)).want(201).text("id")
	hidden := w.do("POST", "/v1/streams", object{"name": "s", "is_public": false}, as(ada.token)).want(201).text("id")
	for _, c := range []struct {
		path           string
		ada, bob, op   int // who may read it
		ada2, bob2, o2 int // and change it
	}{
		{"user/" + ada.user.PublicID.String(), 200, 404, 200, 200, 404, 403},
		{"session/" + ada.id.String(), 200, 404, 200, 403, 404, 403},
		{"stream/" + stream, 200, 200, 200, 200, 404, 200},
		{"stream/" + hidden, 200, 404, 200, 200, 404, 200},
		{"stream/" + uuid.NewString(), 404, 404, 404, 404, 404, 404},
		{"setting/" + uuid.NewString(), 404, 404, 404, 403, 403, 200},
		{"note/" + uuid.NewString(), 404, 404, 404, 200, 412, 412},
	} {
		path := "/v1/state/" + c.path
		if strings.HasPrefix(c.path, "user/") {
			w.do("PATCH", path, object{"theme": "dark"}, as(ada.token), ifMatch("*")).want(200)
		}
		for i, who := range []actor{ada, bob, op} {
			if a := w.do("GET", path, nil, as(who.token)); a.status != []int{c.ada, c.bob, c.op}[i] {
				t.Errorf("%s reads %s: %d %s", who.user.Username, c.path, a.status, a.body)
			}
		}
		for i, who := range []actor{ada, bob, op} {
			match := `"0"`
			if strings.HasPrefix(c.path, "user/") || strings.HasPrefix(c.path, "stream/") {
				match = "*"
			}
			if a := w.do("PATCH", path, object{"x": who.user.Username}, as(who.token), ifMatch(match)); a.status != []int{c.ada2, c.bob2, c.o2}[i] {
				t.Errorf("%s changes %s: %d %s", who.user.Username, c.path, a.status, a.body)
			}
		}
	}
	if a := w.do("PATCH", "/v1/state/stream/"+stream, object{"is_live": true}, as(ada.token), ifMatch("*")).problem(422, "invalid"); len(a.fields()) != 1 {
		t.Errorf("%s", a.body)
	}
}

func TestAStreamsStateFollowsItsEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	id := w.do("POST", "/v1/streams", object{"name": "s"}, as(token)).want(201).text("id")
	path := "/v1/state/stream/" + id
	read := func() answer { return w.do("GET", path, nil, as(token)).want(200) }
	if a := read(); a.at("state.is_live") != false || a.at("state.user_id") == nil {
		t.Errorf("%s", a.body)
	}
	patched := w.do("PATCH", path, object{"scene": "lobby"}, as(token), ifMatch(read().header.Get("ETag"))).want(200)
	w.do("POST", "/v1/streams/"+id+"/start", object{"bitrate_kbps": 6000, "resolution": "1920x1080"}, as(token)).want(200)
	live := read()
	if live.at("state.is_live") != true || live.at("state.scene") != "lobby" || live.at("state.bitrate_kbps") != 6000.0 || live.at("state.session_id") == nil {
		t.Errorf("%s", live.body)
	}
	w.do("PATCH", path, object{"scene": "x"}, as(token), ifMatch(patched.header.Get("ETag"))).problem(412, "version_conflict")
	w.do("POST", "/v1/streams/"+id+"/stop", nil, as(token)).want(200)
	if a := read(); a.at("state.is_live") != false || a.at("state.duration_seconds") == nil || a.at("state.scene") != "lobby" {
		t.Errorf("%s", a.body)
	}
	w.do("DELETE", "/v1/streams/"+id, nil, as(token)).want(204)
	w.do("GET", path, nil, as(token)).want(404)
}

func TestConflictsCanBeSeenAndTurnedAround(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	op := w.actor("operator", user.RoleOperator, 2, false)
	id := uuid.NewString()
	path := "/v1/state/setting/" + id
	w.do("PATCH", path, object{"a": 1, "b": 1}, as(op.token), ifMatch(`"0"`)).want(200)
	w.do("PATCH", path, object{"a": 2}, as(op.token), ifMatch(`"1"`)).want(200)
	w.do("PATCH", path, object{"a": 3}, as(op.token), ifMatch(`"1"`)).want(200) // the type's rule decides
	list := w.do("GET", "/v1/conflicts?open=true&type=setting&id="+id, nil, as(op.token)).want(200)
	conflict := list.text("items.0.id")
	if list.at("items.0.winner.a") != 3.0 || list.at("items.0.loser.a") != 2.0 {
		t.Errorf("%s", list.body)
	}
	w.do("GET", "/v1/conflicts?type=setting", nil, as(op.token)).problem(422, "invalid").names("id")
	back := w.do("POST", "/v1/conflicts/"+conflict+"/restore", nil, as(op.token)).want(200)
	if back.at("state.a") != 2.0 {
		t.Errorf("%s", back.body)
	}
	if left := w.do("GET", "/v1/conflicts?open=true&type=setting&id="+id, nil, as(op.token)).want(200); len(left.at("items").([]any)) != 0 {
		t.Errorf("%s", left.body)
	}
	w.do("POST", "/v1/conflicts/"+uuid.NewString()+"/restore", nil, as(op.token)).problem(404, "no_conflict")
}

func TestVolatileStateIsSetAndRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("ada")
	path := "/v1/state/mood/" + uuid.NewString()
	w.do("GET", path, nil, as(token)).problem(404, "no_state")
	if a := w.do("PATCH", path, object{"n": 3}, as(token)).want(200); a.at("expires_in") != 30.0 {
		t.Errorf("%s", a.body)
	}
	if a := w.do("GET", path, nil, as(token)).want(200); a.at("state.n") != 3.0 || a.header.Get("ETag") != "" {
		t.Errorf("%v %s", a.header, a.body)
	}
}
