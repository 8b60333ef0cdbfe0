package auth_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"rootstream/auth"
	"rootstream/mfa"
	"rootstream/notify"
)

// signInFrom signs in with the password from a client of network n that sends this device id.
func (w *world) signInFrom(n byte, device string) auth.Grant {
	w.t.Helper()
	c := from(n)
	c.DeviceID = device
	l, err := w.Login(w.t.Context(), auth.Credentials{Login: "ada", Password: password, DeviceName: "my own laptop"}, c)
	if err != nil || l.Grant == nil {
		w.t.Fatalf("sign in: %+v, %v", l, err)
	}
	return *l.Grant
}

func TestOwnersHearOfSignInsFromNewDevices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	told := func(want int, when string) {
		t.Helper()
		if n := w.mails(notify.TopicNewSignIn, u.PublicID); n != want {
			t.Errorf("%s: %d mails, want %d", when, n, want)
		}
	}
	first := w.signInFrom(1, "")
	told(0, "the first sign-in of all")
	w.signInFrom(9, first.Session.Device.ID)
	told(0, "the same device elsewhere")
	w.signInFrom(2, "")
	told(1, "a client without a device id")
	w.signInFrom(3, "made-up")
	told(2, "a device id that was never used here")
	w.signInFrom(3, "made-up")
	told(2, "the same once more")
	to, text := w.letter(notify.TopicNewSignIn)
	for _, want := range []string{"firefox on linux", "10.0.3.7"} {
		if to != "ada@example.org" || !strings.Contains(text, want) {
			t.Errorf("the mail to %s lacks %q:\n%s", to, want, text)
		}
	}
	if strings.Contains(text, "my own laptop") {
		t.Errorf("a stranger's own words are in the mail:\n%s", text)
	}
	if _, err := w.db.Exec(t.Context(), `delete from sessions`); err != nil {
		t.Fatal(err)
	}
	if to, text = w.letter(notify.TopicNewSignIn); to != "ada@example.org" || strings.Contains(text, "10.0.3.7") {
		t.Errorf("once the session is gone, the mail to %s says:\n%s", to, text)
	}
}

func TestManySignInsOfOneNetworkDoNotHideAnotherOnes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	for range 7 { // a program that keeps no device id
		w.signInFrom(1, "")
	}
	if n := w.mails(notify.TopicNewSignIn, u.PublicID); n != 4 {
		t.Errorf("%d mails for one network, want 4", n)
	}
	w.signInFrom(2, "")
	if n := w.mails(notify.TopicNewSignIn, u.PublicID); n != 5 {
		t.Errorf("%d mails with that of another network, want 5", n)
	}
}

func TestWrongCodesDoNotUseUpTheMailOfANewDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	f := w.enroll(w.login("ada"))
	const tries = 4 // as many as there are mails an hour
	for range tries {
		answer := auth.MFAAnswer{ChallengeID: w.challenge("ada").ID, Method: mfa.BackupCode, Code: "AAAAA-AAAAA"}
		if _, err := w.VerifyMFA(t.Context(), answer, from(1)); err == nil {
			t.Fatal("a made-up code was right")
		}
	}
	if n := w.mails(notify.TopicNewSignIn, u.PublicID); n != 0 {
		t.Errorf("%d mails of sign-ins that failed", n)
	}
	g := w.signIn("ada", f)
	if n := w.mails(notify.TopicNewSignIn, u.PublicID); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
	if _, text := w.letter(notify.TopicNewSignIn); !strings.Contains(text, g.Session.Device.IP.String()) {
		t.Errorf("the mail does not say where:\n%s", text)
	}
}

func TestMailOfNewDevicesIsInTheTransactionOfTheSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.register("ada")
	w.login("ada")
	if _, err := w.db.Exec(t.Context(), `create function refuse() returns trigger language plpgsql as $$begin raise 'no mail'; end$$;
		create trigger refuse before insert on outbox execute function refuse()`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: password}, from(2)); err == nil {
		t.Error("a sign-in succeeded without its mail")
	}
	live, err := w.sessions.List(t.Context(), u.ID)
	if err != nil || len(live) != 1 {
		t.Errorf("%d sessions live, %v; want the first alone", len(live), err)
	}
}

func TestMailOfNewDevicesCanBeTurnedOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.config.NoSignInMail = true })
	u := w.register("ada")
	w.login("ada")
	w.signInFrom(2, uuid.NewString())
	if n := w.mails(notify.TopicNewSignIn, u.PublicID); n != 0 {
		t.Errorf("%d mails, want none", n)
	}
}
