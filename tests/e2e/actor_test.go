package e2e_test

import (
	"context"
	crypto "crypto/rand"
	"math/rand/v2"
	"net/http"
	"time"

	"rootstream/tests/harness"
)

// act is somebody who signs people in and out until ctx ends.
func (w *world) act(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		u := w.people[r.IntN(len(w.people))]
		switch n := r.IntN(100); {
		case n < 10:
			w.login(u, r)
		case n < 42:
			w.insert(u)
		case n < 60:
			w.one(u, r, w.logout)
		case n < 72:
			w.one(u, r, w.remove)
		case n < 90:
			w.one(u, r, w.refresh)
		case n < 93:
			w.others(u, r)
		case n < 95:
			w.all(u, r)
		case n < 97:
			w.dismiss(u, r)
		default:
			w.disable(u, r)
		}
		<-time.After(harness.Between(r, 1, 30))
	}
}

func (w *world) anywhere(r *rand.Rand) caller { return w.callers[r.IntN(len(w.callers))] }

func (w *world) login(u *person, r *rand.Rand) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	a := w.anywhere(r).login(context.Background(), u.name, password)
	w.answered("login", a)
	switch {
	case a.ok():
		w.book.begin(u, a.body.str("session", "id"), a.body.str("token"))
	case a.status == http.StatusUnauthorized:
		w.book.fault("a right password was refused: %v", a)
	}
}

// insert is a program of Phase 24.2, which signs somebody in by its own statement; it costs no password hash.
func (w *world) insert(u *person) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	value, id := crypto.Text(), ""
	err := w.old.QueryRow(ctx, `INSERT INTO sessions (user_id, session_token, expires_at)
		SELECT id, $2, NOW() + INTERVAL '1 day' FROM users WHERE username = $1 RETURNING public_id`, u.name, value).Scan(&id)
	if err != nil {
		w.book.count("insert failed", 0)
		return
	}
	w.book.count("insert", 0)
	w.book.begin(u, id, value)
}

// one does something to one live session of a person.
func (w *world) one(u *person, r *rand.Rand, do func(*entry, *rand.Rand)) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	w.book.mu.Lock()
	var mine []*entry
	for _, e := range w.book.sessions {
		if e.user == u && e.mu.TryLock() {
			if !e.gone {
				mine = append(mine, e)
			}
			e.mu.Unlock()
		}
	}
	w.book.mu.Unlock()
	if len(mine) == 0 {
		return
	}
	e := mine[r.IntN(len(mine))]
	if !e.mu.TryLock() {
		return
	}
	defer e.mu.Unlock()
	if !e.gone {
		do(e, r)
	}
}

// ended notes how a request ended that was to end sessions.
func (w *world) ended(a answer, sessions ...*entry) {
	at := a.began.Add(a.took)
	for _, e := range sessions {
		switch {
		case a.ok():
			w.book.end(e, at)
		case a.status == http.StatusServiceUnavailable || a.status == 0:
			e.gone = true // nobody knows
		}
	}
	if a.ok() && len(sessions) > 0 {
		w.chase(sessions[0].current())
	}
}

// chase measures, while nothing is broken, how long an ended token is still accepted somewhere.
func (w *world) chase(t *token) {
	phase := w.book.phase.Load()
	if phase%2 == 0 || t.overIn.Load() != phase {
		return
	}
	over := t.over.Load()
	var last time.Duration
	for again := true; again && w.book.phase.Load() == phase; {
		again = false
		for at := range w.callers {
			a := w.validate(t, at)
			if valid, _ := a.valid(); valid {
				again, last = true, max(last, time.Duration(w.book.since(a.began)-over))
			}
		}
	}
	if w.book.phase.Load() == phase {
		w.book.lag(last)
	}
}

func (w *world) logout(e *entry, r *rand.Rand) {
	e.dispute()
	a := w.anywhere(r).as(e.current().value).do(context.Background(), "POST", "/v1/auth/logout", nil)
	w.answered("logout", a)
	w.refused(a)
	w.ended(a, e)
}

// remove ends a session by its id.
func (w *world) remove(e *entry, r *rand.Rand) {
	e.dispute()
	a := w.anywhere(r).as(e.current().value).do(context.Background(), "DELETE", "/v1/sessions/"+e.id, nil)
	w.answered("remove", a)
	w.refused(a)
	w.ended(a, e)
}

// refused is a fault: the request was made with a token that had not ended.
func (w *world) refused(a answer) {
	if a.status == http.StatusUnauthorized || a.status == http.StatusNotFound {
		w.book.fault("a live session was not known: %v", a)
	}
}

// honoured is how long a replaced token still works.
const honoured = 10 * time.Second

// refresh replaces the token, and asks again where the answer is lost.
func (w *world) refresh(e *entry, r *rand.Rand) {
	old := e.current()
	old.disputed.Store(true)
	for begun := time.Now(); ; {
		a := w.anywhere(r).as(old.value).do(context.Background(), "POST", "/v1/auth/refresh", nil)
		w.answered("refresh", a)
		switch {
		case a.ok():
			// An answer that was asked for again says nothing of when the first one replaced the token, only not after.
			w.book.add(e, a.body.str("token"))
			w.book.expire(old, a.began.Add(a.took+honoured))
			return
		case a.status == http.StatusTooManyRequests:
			return
		case a.status == http.StatusServiceUnavailable && time.Since(begun) < 4*time.Second-a.took:
			<-time.After(50 * time.Millisecond)
		default:
			if a.status == http.StatusUnauthorized && a.began.Add(a.took).Sub(begun) < honoured {
				w.book.fault("a live token was not refreshed: %v", a)
			}
			e.dispute()
			e.gone = true
			return
		}
	}
}

// others ends all sessions of a person but one.
func (w *world) others(u *person, r *rand.Rand) {
	u.mu.Lock()
	defer u.mu.Unlock()
	mine := w.book.of(u)
	if len(mine) < 2 {
		return
	}
	keep := mine[0]
	for _, e := range mine[1:] {
		e.dispute()
	}
	a := w.anywhere(r).as(keep.current().value).do(context.Background(), "DELETE", "/v1/sessions?scope=others", nil)
	w.answered("others", a)
	w.refused(a)
	w.ended(a, mine[1:]...)
}

// all ends all sessions of a person, by one of them.
func (w *world) all(u *person, r *rand.Rand) {
	u.mu.Lock()
	defer u.mu.Unlock()
	mine := w.book.of(u)
	if len(mine) == 0 {
		return
	}
	for _, e := range mine {
		e.dispute()
	}
	a := w.anywhere(r).as(mine[0].current().value).do(context.Background(), "DELETE", "/v1/sessions?scope=all", nil)
	w.answered("all", a)
	w.refused(a)
	w.ended(a, mine...)
}

// dismiss is an administrator who ends all sessions of a person.
func (w *world) dismiss(u *person, r *rand.Rand) {
	u.mu.Lock()
	defer u.mu.Unlock()
	mine := w.book.of(u)
	for _, e := range mine {
		e.dispute()
	}
	w.ended(w.administer(r, "dismiss", "DELETE", "/v1/admin/users/"+u.id+"/sessions"), mine...)
}

// disable is an administrator who disables an account, and enables it again.
func (w *world) disable(u *person, r *rand.Rand) {
	u.mu.Lock()
	defer u.mu.Unlock()
	mine := w.book.of(u)
	for _, e := range mine {
		e.dispute()
	}
	w.ended(w.administer(r, "disable", "POST", "/v1/admin/users/"+u.id+"/disable"), mine...)
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		if a := w.administer(r, "enable", "POST", "/v1/admin/users/"+u.id+"/enable"); a.ok() {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	w.book.fault("%s could not be enabled again for a minute", u.name)
}

// administer makes a request as an administrator, signing in if that is needed.
func (w *world) administer(r *rand.Rand, what, method, path string) answer {
	w.admin.Lock()
	defer w.admin.Unlock()
	for try := 0; ; try++ {
		if w.admin.token != "" {
			a := w.anywhere(r).as(w.admin.token).do(context.Background(), method, path, nil)
			if a.status != http.StatusUnauthorized && a.status != http.StatusForbidden || try == 2 {
				w.answered(what, a)
				return a
			}
		}
		a := w.anywhere(r).login(context.Background(), boss, password)
		w.answered("login of the administrator", a)
		if !a.ok() {
			return a
		}
		w.admin.token = a.body.str("token")
	}
}
