package session_test

import (
	"errors"
	"testing"

	"rootstream/session"
)

func TestSessionLivesFromCreateToRevoke(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	m := w.instance()
	id, public := w.user()
	token, s := w.loginAs(m, session.New{UserID: id, UserPublicID: public, AMR: []string{"pwd"}})
	if !session.WellFormed(token) {
		t.Fatalf("token %q", token)
	}
	for range 3 {
		v, err := m.Validate(t.Context(), token, session.ClientHint{})
		if err != nil {
			t.Fatal(err)
		}
		if v.SessionID != s.ID || v.UserID != public || v.AAL != 1 || v.Role != session.RoleUser || v.ExpiresAt != s.ExpiresAt.UnixMicro() {
			t.Errorf("view %+v of session %+v", v, s)
		}
	}
	w.revoke(m, s)
	if _, err := m.Validate(t.Context(), token, session.ClientHint{}); !errors.Is(err, session.ErrInvalid) {
		t.Errorf("after the revocation: %v", err)
	}
	w.revoke(m, s) // again changes nothing
	if n := w.int(`select count(*) from events where name = 'session.revoked'`); n != 1 {
		t.Errorf("%d events of one revocation", n)
	}
}
