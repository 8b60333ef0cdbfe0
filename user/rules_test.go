package user_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rootstream/errs"
	"rootstream/user"
)

func newRules(tb testing.TB) *user.Rules {
	tb.Helper()
	r, err := user.NewRules(user.RulesConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestEveryFaultOfARegistrationIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	err := newRules(t).Registration(user.Registration{
		Username: "a", Email: "nowhere", Password: "short", DisplayName: "\u202e", AvatarURL: "ftp://x",
	})
	var fields []string
	for _, f := range errs.FieldsOf(err) {
		fields = append(fields, f.Field)
	}
	want := []string{"username", "email", "display_name", "avatar_url", "password"}
	if diff := cmp.Diff(want, fields); diff != "" || errs.KindOf(err) != errs.Invalid {
		t.Errorf("kind %v, fields (-want +got):\n%s", errs.KindOf(err), diff)
	}
}

func TestPasswordsAreJudgedByLengthAndByWhatEverybodyChooses(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	ada := user.User{Username: "lovelace", Email: "countess@example.org"}
	for password, fine := range map[string]bool{
		"correct horse battery staple": true, "correcthorsebatterystaple": true, "TestPassword123!": true, "xkq7 vmz2 pl9w 3f": true,
		"Tr0ub4dor&3-and-more": true, "una frase bastante larga": true, "密码密码我的猫叫小白喜欢睡觉呢": true, "314159265358979": true,
		"wet socks on tuesday":    true,
		strings.Repeat("aZ9-", 4): false, strings.Repeat("aB3$x9Qw", 2) + "zz": true,

		// too short, too long
		"": false, "14 characters!": false, "xkq7vmz2pl9w3f": false, "qx" + strings.Repeat("ab c7dz", 37): false,
		// common, and what is done to make it look uncommon
		"passwordpassword": false, "PasswordPassword": false, "p@ssw0rdp@ssw0rd": false, "password12345678": false, "Password2024!!!!": false,
		"iloveyou12345678": false, "iloveyoubaby1234": false, "passwordpassword1": false, "administrator123!": false, "4dm1n1str4t0r2024": false,
		"password password": false, "password-iloveyou": false, "manchesterunited": false, "letmeinletmeinletmein": false, "ｐａｓｓｗｏｒｄｐａｓｓｗｏｒｄ": false,
		// runs and walks
		"123456789012345": false, "1234567890123456789": false, "987654321098765": false, "aaaaaaaaaaaaaaa": false, "aaaaaaaabbbbbbbb": false,
		"abcdefghijklmnop": false, "qwertyuiopasdfgh": false, "qwertyuiop123456": false, "1qaz2wsx3edc4rfv": false, "1q2w3e4r5t6y7u8i": false,
		"poiuytrewqlkjhgf": false, "йцукенгшщзхъфывапр": false, "!@#$%^&*()_+1234": false, "abababababababab": false, "xyzxyzxyzxyzxyz1": false,
		"1985041219850412": false, "password19850412": false, "hunter2hunter2hunter2": false,
		// control characters
		"wet socks\x00on tuesday": false, "wet socks\non tuesday": false, "wet socks\xff\xfeon tuesday": false,
	} {
		if err := r.Password(password, ada, false); (err == nil) != fine {
			t.Errorf("Password(%q) = %v, want fine = %v", password, err, fine)
		}
	}
}

func TestEightCharactersDoWhereASecondFactorIsRequired(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	for password, fine := range map[string]bool{
		"xkq7vmz2": true, "xkq7vmz": false, "password": false, "P@ssw0rd": false, "Passw0rd!": false, "monkey12": false, "$uperman1": false,
		"12345678": false, "football1": false, "Sunsh1ne!": false, "dragon99": false, "zaq12wsx": false, "19850412": false, "trustno1": false,
		"llllllll": false, "qwerty12": false, "Chelsea2": false, "l3tm31n!": false,
	} {
		if err := r.Password(password, user.User{}, true); (err == nil) != fine {
			t.Errorf("Password(%q) = %v, want fine = %v", password, err, fine)
		}
	}
}

func TestAPasswordMustStandAloneWithoutItsOwnersNames(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	ada := user.User{Username: "Ada.Lovelace.1815", Email: "countess.of.numbers@example.org"}
	for password, fine := range map[string]bool{
		"ada.lovelace.1815": false, "ADA.LOVELACE.1815": false, "ada.lovelace.18152024": false, "countess.of.numbers": false,
		"countess.of.numbers@example.org": false, "ada.lovelace.1815password": false, "ada.lovelace.1815ada.lovelace.1815xyz": false,
		"ada.lovelace.1815 wet socks": true, "I am countess.of.numbers twice": true,
	} {
		if err := r.Password(password, ada, false); (err == nil) != fine {
			t.Errorf("Password(%q) = %v, want fine = %v", password, err, fine)
		}
	}
	if err := r.Password("zq ab 7x kd 93 mv", user.User{Username: "ab", Email: "x@example.org"}, false); err != nil {
		t.Errorf("a name of two letters ruled out a password that holds them: %v", err)
	}
}

func TestLongPassphrasesAreWelcomeInAnyScript(t *testing.T) {
	t.Parallel()
	r := newRules(t)
	long := "Ein etwas längerer Satz, den sich niemand sonst ausdenkt, mit 96 Zeichen und ganz ohne Zwang dazu"
	if err := r.Password(long, user.User{}, false); err != nil {
		t.Errorf("Password of %d bytes: %v", len(long), err)
	}
	emoji := "🐢🎷🧀🚲🌵🪁🎲🧦🫖🦊🪵🎈🐙🧭🍐"
	if err := r.Password(emoji, user.User{}, false); err != nil {
		t.Errorf("15 emoji: %v", err)
	}
}

func TestTheListOfCommonPasswordsHoldsThousandsOfBaseForms(t *testing.T) {
	t.Parallel()
	words := newRules(t).CommonWords()
	if len(words) < 5000 {
		t.Errorf("%d words, want several thousand", len(words))
	}
	for w := range words {
		if w != strings.ToLower(w) {
			t.Errorf("%q is not in lower case, so it is never found", w)
		}
	}
}

func TestRulesRefuseLengthsBelowTheFloor(t *testing.T) {
	t.Parallel()
	_, err := user.NewRules(user.RulesConfig{MinPassword: 7, MinPasswordWithFactor: 9})
	if len(errs.FieldsOf(err)) != 2 {
		t.Errorf("NewRules = %v, want both keys named", err)
	}
	if _, err := user.NewRules(user.RulesConfig{MinPassword: 20, MinPasswordWithFactor: 12}); err != nil {
		t.Error(err)
	}
}

func FuzzPasswordRules(f *testing.F) {
	for _, s := range []string{"passwordpassword", "correct horse battery staple", "aaaaaaaaaaaaaaaaaaaa", "\xff", "йцукен123", "111222333444555"} {
		f.Add(s, "ada", "ada@example.org")
	}
	r := newRules(f)
	f.Fuzz(func(t *testing.T, password, name, email string) {
		err := r.Password(password, user.User{Username: name, Email: email}, false)
		if err != nil && errs.KindOf(err) != errs.Invalid {
			t.Errorf("Password(%q) = %v", password, err)
		}
		if err == nil && r.Password(password+password, user.User{Username: name, Email: email}, false) != nil && len([]rune(password)) < 100 {
			t.Errorf("%q is fine but not when typed twice", password)
		}
	})
}

func BenchmarkPasswordRules(b *testing.B) {
	r := newRules(b)
	for name, password := range map[string]string{
		"passphrase": "correct horse battery staple", "longest": strings.Repeat("wet socks on tuesday ", 12), "run": strings.Repeat("123456789", 28),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_ = r.Password(password, user.User{Username: "lovelace", Email: "ada@example.org"}, false)
			}
		})
	}
}
