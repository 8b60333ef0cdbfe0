package notify_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/notify"
	"rootstream/notify/notifytest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

func TestMailTravelsAsTheConfigurationSays(t *testing.T) {
	t.Parallel()
	login := notifytest.Config{User: "ada", Password: "hunter-22-secret"}
	with := func(c notifytest.Config, startTLS, implicit bool) notifytest.Config {
		c.StartTLS, c.ImplicitTLS = startTLS, implicit
		return c
	}
	for name, tt := range map[string]struct {
		server   notifytest.Config
		mode     notify.TLSMode
		trust    bool
		password string
		secure   bool
		fails    string
	}{
		"mandatory with login":             {server: with(login, true, false), mode: "", trust: true, secure: true},
		"mandatory, server without TLS":    {server: login, mode: notify.TLSMandatory, fails: "does not support STARTTLS"},
		"mandatory, unknown certificate":   {server: with(login, true, false), mode: notify.TLSMandatory, fails: "certificate"},
		"opportunistic with TLS":           {server: with(login, true, false), mode: notify.TLSOpportunistic, trust: true, secure: true},
		"opportunistic without TLS":        {server: notifytest.Config{}, mode: notify.TLSOpportunistic},
		"implicit with login":              {server: with(login, false, true), mode: notify.TLSImplicit, trust: true, secure: true},
		"none":                             {server: notifytest.Config{}, mode: notify.TLSNone},
		"wrong password":                   {server: with(login, true, false), mode: notify.TLSMandatory, trust: true, password: "wrong-password", fails: "535"},
		"login where the server wants one": {server: login, mode: notify.TLSNone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, srv := postgrestest.New(t), notifytest.NewSMTP(t, tt.server)
			cfg := quick(srv)
			cfg.Mail.SMTP.TLS = tt.mode
			cfg.Mail.SMTP.HELO = "client.example.org"
			if tt.trust {
				cfg.Mail.SMTP.RootCAs = srv.RootCAs
			}
			if tt.server.User != "" {
				cfg.Mail.SMTP.Username = tt.server.User
				cfg.Mail.SMTP.Password = func() string {
					if tt.password != "" {
						return tt.password
					}
					return tt.server.Password
				}
			}
			run(t, newSender(t, db, cfg))
			enqueue(t, db, attempt("a@example.org"))
			if tt.fails != "" {
				eventually(t, "the failure is on record", func() bool {
					return count(t, db, "sent_at is null and last_error like '%"+tt.fails+"%'") == 1
				})
				if count(t, db, "last_error like '%-password%' or last_error like '%hunter%'") != 0 {
					t.Error("the password is on record")
				}
				return
			}
			got := srv.Wait(t, 1)[0]
			if got.Secure != tt.secure || got.User != tt.server.User {
				t.Errorf("secure %v, user %q", got.Secure, got.User)
			}
		})
	}
}

func TestHostileTextCannotAddHeadersOrRecipients(t *testing.T) {
	t.Parallel()
	db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{})
	cfg := quick(srv)
	cfg.Renderers = map[string]notify.Renderer{"test.hostile": func(context.Context, *postgres.Tx, json.RawMessage) (notify.Mail, error) {
		return notify.Mail{
			To:      `"Ada, Countess" <ada@example.org>`,
			Subject: "hi\r\nBcc: victim@example.org\r\n\r\nbody ünïcode\u2028x",
			Text:    "first\n.\n.leading dot\r\nMAIL FROM:<x@example.org>\n" + strings.Repeat("long ", 500) + "\nümlaut 漢字",
		}, nil
	}}
	run(t, newSender(t, db, cfg))
	enqueue(t, db, notify.Message{Channel: notify.ChannelMail, Topic: "test.hostile"})
	got := srv.Wait(t, 1)[0]
	if len(got.To) != 1 || got.To[0] != "ada@example.org" || got.Header("Bcc") != "" {
		t.Errorf("recipients %v, Bcc %q", got.To, got.Header("Bcc"))
	}
	if s := got.Header("Subject"); s != "hi Bcc: victim@example.org body ünïcode x" {
		t.Errorf("subject %q", s)
	}
	if text := got.Text(); !strings.HasPrefix(text, "first\n.\n.leading dot\nMAIL FROM") || !strings.HasSuffix(strings.TrimSpace(text), "ümlaut 漢字") {
		t.Errorf("text %q", text)
	}
	for line := range strings.SplitSeq(got.Data, "\r\n") {
		if len(line) > 998 {
			t.Errorf("a line has %d bytes", len(line))
		}
	}
}

func TestMailFolderHoldsPrivateCompleteFiles(t *testing.T) {
	t.Parallel()
	db, dir := postgrestest.New(t), filepath.Join(t.TempDir(), "mail")
	cfg := quick(nil)
	cfg.Mail = notify.MailConfig{From: "no-reply@localhost", Dir: dir, Product: "Example Live"}
	url := "http://127.0.0.1:8080/verify?token=" + strings.Repeat("x", 90) + "=end"
	cfg.Renderers = map[string]notify.Renderer{notify.TopicVerifyEmail: func(context.Context, *postgres.Tx, json.RawMessage) (notify.Mail, error) {
		return notify.Compose(notify.TopicVerifyEmail, notify.Data{URL: url, ExpiresIn: 24 * time.Hour})
	}}
	run(t, newSender(t, db, cfg))
	enqueue(t, db, notify.Message{Channel: notify.ChannelMail, Topic: notify.TopicVerifyEmail, Target: "a@example.org"})
	eventually(t, "it is written", func() bool { return count(t, db, "sent_at is not null") == 1 })
	// A repeat replaces the file.
	if _, err := db.Exec(t.Context(), "update outbox set sent_at = null, next_try_at = now(), target = 'a@example.org'"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is written again", func() bool { return count(t, db, "sent_at is not null and tries = 2") == 1 })
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || !strings.HasSuffix(files[0].Name(), ".eml") || !strings.Contains(files[0].Name(), "-user.verify_email-") {
		t.Fatalf("files %v, %v", files, err)
	}
	path := filepath.Join(dir, files[0].Name())
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if st, err = os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder mode %v, %v", st.Mode(), err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), "\r\n"+url+"\r\n") || !strings.Contains(string(raw), "To: <a@example.org>") {
		t.Errorf("the address to open is not on a line of its own:\n%s", raw)
	}
	var stored string
	if err := db.QueryRow(t.Context(), "select outbox::text from outbox").Scan(&stored); err != nil || strings.Contains(stored, "token=") {
		t.Errorf("the token rests in the outbox: %s, %v", stored, err)
	}
}

func TestUnwritableMailFolderIsTriedAgain(t *testing.T) {
	t.Parallel()
	db, dir := postgrestest.New(t), filepath.Join(t.TempDir(), "mail")
	cfg := quick(nil)
	cfg.Mail = notify.MailConfig{From: "no-reply@localhost", Dir: dir}
	s := newSender(t, db, cfg)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	enqueue(t, db, attempt("a@example.org"))
	eventually(t, "it failed", func() bool { return count(t, db, "last_error is not null") == 1 })
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is written", func() bool { return count(t, db, "sent_at is not null") == 1 })
}

func TestBuiltInTextsReadWell(t *testing.T) {
	t.Parallel()
	full := notify.Data{
		Product: "Example Live", URL: "https://example.org/v?t=abc", ExpiresIn: 24 * time.Hour,
		At: time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC), Until: time.Date(2026, 3, 1, 12, 45, 0, 0, time.UTC),
		Place: "Basel, CH", Device: "Firefox on Linux\nBcc: evil", IP: "203.0.113.7", Factor: "phone", CodesLeft: 2,
	}
	for topic, want := range map[string][]string{
		notify.TopicVerifyEmail:     {"https://example.org/v?t=abc\n", "for 24 hours"},
		notify.TopicRegisterAttempt: {"1 March 2026, 12:30 UTC", "nothing was changed"},
		notify.TopicEmailConfirm:    {"https://example.org/v?t=abc\n", "for 24 hours"},
		notify.TopicEmailAsked:      {"1 March 2026, 12:30 UTC", "change your password"},
		notify.TopicEmailAttempt:    {"1 March 2026, 12:30 UTC", "nothing was changed"},
		notify.TopicEmailChanged:    {"https://example.org/v?t=abc\n", "for 24 hours", "undo"},
		notify.TopicEmailReplaced:   {"administrator"},
		notify.TopicPasswordChanged: {"Firefox on Linux Bcc: evil\n", "Basel, CH", "203.0.113.7"},
		notify.TopicLockout:         {"1 March 2026, 12:45 UTC"},
		notify.TopicNewSignIn:       {"Firefox on Linux", "Basel, CH"},
		notify.TopicTokenReused:     {"ended everywhere", "Firefox on Linux"},
		notify.TopicFactorAdded:     {"phone"},
		notify.TopicFactorRemoved:   {"phone"},
		notify.TopicFactorSuspended: {"phone"},
		notify.TopicBackupCodeUsed:  {"2 codes are left"},
		notify.TopicBackupCodesLow:  {"2 backup codes"},
	} {
		for _, d := range []notify.Data{full, {}} {
			m, err := notify.Compose(topic, d)
			if err != nil {
				t.Fatalf("%s: %v", topic, err)
			}
			if m.Subject == "" || strings.Contains(m.Subject, "Subject:") || m.Text == "" || strings.Contains(m.Subject+m.Text, "<no value>") {
				t.Errorf("%s: subject %q, text:\n%s", topic, m.Subject, m.Text)
			}
			for line := range strings.SplitSeq(m.Text, "\n") {
				if len(line) > 90 {
					t.Errorf("%s: a line has %d characters: %s", topic, len(line), line)
				}
			}
		}
		m, err := notify.Compose(topic, full)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range append(want, "Example Live") {
			if !strings.Contains(m.Subject+"\n"+m.Text, part) {
				t.Errorf("%s lacks %q:\n%s\n%s", topic, part, m.Subject, m.Text)
			}
		}
	}
	m, err := notify.Compose(notify.TopicVerifyEmail, notify.Data{Token: "abc-def", ExpiresIn: 30 * time.Minute})
	if err != nil || !strings.Contains(m.Text, "\nabc-def\n") || !strings.Contains(m.Text, "30 minutes") || strings.Contains(m.Text, "open this") {
		t.Errorf("with a token alone:\n%s\n%v", m.Text, err)
	}
	if _, err := notify.Compose("no.such_topic", full); err == nil {
		t.Error("an unknown topic has a text")
	}
}
