package notify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/errs"
	"rootstream/notify"
	"rootstream/notify/notifytest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// quick is a configuration whose pauses suit a test; mail goes to srv.
func quick(srv *notifytest.SMTP) notify.Config {
	cfg := notify.Config{
		Poll: 30 * time.Millisecond, SendTimeout: 20 * time.Second, Lease: time.Minute,
		FirstRetry: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	}
	if srv != nil {
		cfg.Mail = notify.MailConfig{
			From: "RootStream <no-reply@rootstream.example>",
			SMTP: notify.SMTPConfig{Host: srv.Host, Port: srv.Port, TLS: notify.TLSNone, Timeout: 10 * time.Second},
		}
	}
	return cfg
}

func newSender(t *testing.T, db *postgres.DB, cfg notify.Config) *notify.Sender {
	t.Helper()
	s, err := notify.New(db, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs the sender until the test ends or the returned function is called.
func run(t *testing.T, s *notify.Sender) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func enqueue(t *testing.T, db *postgres.DB, m ...notify.Message) {
	t.Helper()
	err := db.InTx(context.Background(), func(tx *postgres.Tx) error {
		for _, one := range m {
			if err := notify.Enqueue(tx, one); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}

func count(t *testing.T, db *postgres.DB, where string) int {
	t.Helper()
	var n int
	if err := db.QueryRow(context.Background(), "select count(*) from outbox where "+where).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func attempt(to string) notify.Message {
	return notify.Message{
		Channel: notify.ChannelMail, Topic: notify.TopicRegisterAttempt, Target: to,
		Payload: notify.Data{At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)},
	}
}

func TestMessageIsSentOnlyIfItsTransactionCommits(t *testing.T) {
	t.Parallel()
	db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{})
	s := newSender(t, db, quick(srv))
	run(t, s)
	boom := errors.New("boom")
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if err := s.Enqueue(tx, attempt("lost@example.org")); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	enqueue(t, db, attempt("a@example.org"), attempt("b@example.org"))
	got := srv.Wait(t, 2)
	to := []string{got[0].To[0], got[1].To[0]}
	slices.Sort(to)
	if len(got) != 2 || to[0] != "a@example.org" || to[1] != "b@example.org" {
		t.Errorf("mails went to %v", to)
	}
	m := got[0]
	if m.From != "no-reply@rootstream.example" || m.Header("From") != `"RootStream" <no-reply@rootstream.example>` ||
		m.Header("Subject") != "Somebody tried to register at RootStream with your address" ||
		m.Header("Auto-Submitted") != "auto-generated" || !strings.Contains(m.Text(), "1 March 2026, 12:00 UTC") {
		t.Errorf("mail:\n%s", m.Data)
	}
	eventually(t, "both rows are marked", func() bool { return count(t, db, "sent_at is not null and tries = 1") == 2 })
	if !strings.HasSuffix(m.Header("Message-Id"), "@rootstream.example>") {
		t.Errorf("Message-ID %s", m.Header("Message-Id"))
	}
}

func TestNoAddressStaysWithAMailThatIsDoneWith(t *testing.T) {
	t.Parallel()
	db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{})
	enqueue(t, db, attempt("sent@example.org"), notify.Message{Channel: notify.ChannelMail, Topic: "never.heard_of", Target: "abandoned@example.org"})
	cfg := quick(srv)
	cfg.MaxTries = 1
	run(t, newSender(t, db, cfg))
	eventually(t, "one is sent, one given up", func() bool { return count(t, db, "sent_at is not null or abandoned_at is not null") == 2 })
	if n := count(t, db, "channel = 'mail' and target <> '' or outbox::text like '%@%'"); n != 0 {
		t.Errorf("%d rows hold an address", n)
	}
	old := postgrestest.New(t)
	enqueue(t, old, attempt("late@example.org"), notify.Message{Channel: notify.ChannelWebhook, Topic: "user.created", Target: "billing"})
	if _, err := old.Exec(t.Context(), "update outbox set created_at = now() - interval '1 year'"); err != nil {
		t.Fatal(err)
	}
	if _, err := newSender(t, old, notify.Config{}).Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if count(t, old, "outbox::text like '%@%'") != 0 || count(t, old, "target = 'billing'") != 1 {
		t.Error("what nobody sent in time keeps its address, or an endpoint is taken for one")
	}
}

func TestMessagesOfALateHookAreNotLost(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if err := notify.Enqueue(tx, attempt("a@example.org")); err != nil {
			return err
		}
		tx.BeforeCommit(func(context.Context) error { return notify.Enqueue(tx, attempt("b@example.org")) })
		return nil
	})
	if err != nil || count(t, db, "true") != 2 {
		t.Errorf("%d rows, %v; want 2", count(t, db, "true"), err)
	}
}

func TestLocalCommitWakesTheSenderAtOnce(t *testing.T) {
	t.Parallel()
	db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{})
	cfg := quick(srv)
	cfg.Poll = time.Hour
	s := newSender(t, db, cfg)
	run(t, s)
	enqueue(t, db, attempt("first@example.org"))
	s.Wake()
	srv.Wait(t, 1) // the loop is past its first look
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error { return s.Enqueue(tx, attempt("a@example.org")) })
	if err != nil {
		t.Fatal(err)
	}
	srv.Wait(t, 2)
}

func TestHealthySendersNeverSendAMessageTwice(t *testing.T) {
	t.Parallel()
	db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{})
	const n = 200
	var all []notify.Message
	for i := range n {
		all = append(all, attempt(fmt.Sprintf("u%d@example.org", i)))
	}
	for range 3 {
		run(t, newSender(t, db, quick(srv)))
	}
	enqueue(t, db, all...)
	eventually(t, "everything is sent", func() bool { return count(t, db, "sent_at is null") == 0 })
	seen := map[string]int{}
	for _, m := range srv.Messages() {
		seen[m.To[0]]++
	}
	for to, times := range seen {
		if times != 1 {
			t.Errorf("%s got %d mails", to, times)
		}
	}
	if len(seen) != n || count(t, db, "tries <> 1") != 0 {
		t.Errorf("%d recipients, want %d", len(seen), n)
	}
}

func TestFailedSendIsRepeatedWithTheSameID(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	var rendered atomic.Int32
	db := postgrestest.New(t)
	srv := notifytest.NewSMTP(t, notifytest.Config{Answer: func(cmd string) string {
		if cmd == "." && tries.Add(1) < 3 {
			return "451 4.3.0 try again a@example.org"
		}
		return ""
	}})
	cfg := quick(srv)
	cfg.Renderers = map[string]notify.Renderer{"test.topic": func(_ context.Context, _ *postgres.Tx, payload json.RawMessage) (notify.Mail, error) {
		var p struct{ Name string }
		err := json.Unmarshal(payload, &p)
		return notify.Mail{Subject: "hello " + p.Name, Text: fmt.Sprintf("token %d", rendered.Add(1))}, err
	}}
	reg := prometheus.NewRegistry()
	cfg.Registerer = reg
	run(t, newSender(t, db, cfg))
	enqueue(t, db, notify.Message{Channel: notify.ChannelMail, Topic: "test.topic", Target: "a@example.org", Payload: map[string]string{"Name": "Ada"}})
	got := srv.Wait(t, 1)
	if got[0].Header("Subject") != "hello Ada" || strings.TrimSpace(got[0].Text()) != "token 3" {
		t.Errorf("mail:\n%s", got[0].Data)
	}
	var id string
	if err := db.QueryRow(t.Context(), "select id::text from outbox").Scan(&id); err != nil {
		t.Fatal(err)
	}
	if got[0].Header("Message-Id") != "<"+id+"@rootstream.example>" {
		t.Errorf("Message-ID %s of row %s", got[0].Header("Message-Id"), id)
	}
	eventually(t, "the row is marked", func() bool { return count(t, db, "sent_at is not null and tries = 3 and last_error is null") == 1 })
	for name, want := range map[string]float64{"rootstream_notify_sent_total": 1, "rootstream_notify_failed_total": 2, "rootstream_notify_abandoned_total": 0} {
		if got := metric(t, reg, name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
}

// metric returns the value of a counter or gauge of the mail channel.
func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == "mail" {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func TestMessageIsGivenUpWhenNoTryCanHelp(t *testing.T) {
	t.Parallel()
	gone := errs.New(errs.NotFound, "no_user", "no such user")
	for name, tt := range map[string]struct {
		answer   func(string) string
		renderer notify.Renderer
		tries    string
		reason   string
	}{
		"recipient refused for good": {
			answer: func(cmd string) string {
				if strings.HasPrefix(cmd, "RCPT") {
					return "550 5.1.1 no such user a@example.org"
				}
				return ""
			}, tries: "tries = 1", reason: "%[recipient]%",
		},
		"the user is gone": {
			renderer: func(context.Context, *postgres.Tx, json.RawMessage) (notify.Mail, error) {
				return notify.Mail{}, gone
			}, tries: "tries = 1", reason: "%no such user%",
		},
		"every try used": {
			answer: func(cmd string) string {
				if strings.HasPrefix(cmd, "MAIL") {
					return "451 4.3.0 not now"
				}
				return ""
			}, tries: "tries = 3", reason: "%451%",
		},
		"header injection": {
			renderer: func(context.Context, *postgres.Tx, json.RawMessage) (notify.Mail, error) {
				return notify.Mail{To: "a@example.org\r\nBcc: b@example.org"}, nil
			}, tries: "tries = 1", reason: "%control character%",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{Answer: tt.answer})
			cfg := quick(srv)
			cfg.MaxTries = 3
			var logged bytes.Buffer
			cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
			if tt.renderer != nil {
				cfg.Renderers = map[string]notify.Renderer{notify.TopicRegisterAttempt: tt.renderer}
			}
			stop := run(t, newSender(t, db, cfg))
			enqueue(t, db, attempt("a@example.org"))
			eventually(t, "it is given up", func() bool {
				return count(t, db, "abandoned_at is not null and sent_at is null and "+tt.tries+" and last_error like '"+tt.reason+"'") == 1
			})
			stop()
			if strings.Contains(logged.String(), "a@example.org") || !strings.Contains(logged.String(), "message given up") {
				t.Errorf("log: %s", logged.String())
			}
			if n := len(srv.Messages()); n != 0 {
				t.Errorf("%d mails arrived", n)
			}
		})
	}
}

func TestMessageOfADeadSenderIsTakenOverWhenItsLeaseEnds(t *testing.T) {
	t.Parallel()
	db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{})
	enqueue(t, db, attempt("a@example.org"))
	begun := time.Now()
	// A sender that was killed after its claim leaves exactly this.
	if _, err := db.Exec(t.Context(), "update outbox set tries = 1, next_try_at = clock_timestamp() + interval '300 ms'"); err != nil {
		t.Fatal(err)
	}
	run(t, newSender(t, db, quick(srv)))
	srv.Wait(t, 1)
	if early := time.Since(begun); early < 250*time.Millisecond {
		t.Errorf("it was taken over after %s, while its lease held", early)
	}
	eventually(t, "the row is marked", func() bool { return count(t, db, "sent_at is not null and tries = 2") == 1 })
}

func TestStopFinishesWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	reached, release := make(chan struct{}), make(chan struct{})
	db := postgrestest.New(t)
	srv := notifytest.NewSMTP(t, notifytest.Config{Answer: func(cmd string) string {
		if cmd == "." {
			close(reached)
			<-release
		}
		return ""
	}})
	stop := run(t, newSender(t, db, quick(srv)))
	enqueue(t, db, attempt("a@example.org"))
	<-reached
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	close(release)
	<-stopped
	if count(t, db, "sent_at is not null") != 1 {
		t.Error("the mail that was on its way is not marked as sent")
	}
}

func TestSenderHealsWhenTheDatabaseDropsItsConnections(t *testing.T) {
	t.Parallel()
	const n = 40
	db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{})
	for i := range n {
		enqueue(t, db, attempt(fmt.Sprintf("u%d@example.org", i)))
	}
	run(t, newSender(t, db, quick(srv)))
	for i := range 5 {
		srv.Wait(t, 1+5*i)
		_, _ = db.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid()`)
	}
	eventually(t, "all mails are sent and marked", func() bool {
		var sent int
		err := db.QueryRow(context.Background(), "select count(*) from outbox where sent_at is not null").Scan(&sent)
		return err == nil && sent == n
	})
}

func TestSilentMailServerCannotHoldTheSender(t *testing.T) {
	t.Parallel()
	db, srv := postgrestest.New(t), notifytest.NewSMTP(t, notifytest.Config{Silent: true})
	cfg := quick(srv)
	cfg.Mail.SMTP.Timeout = 200 * time.Millisecond
	run(t, newSender(t, db, cfg))
	enqueue(t, db, attempt("a@example.org"))
	eventually(t, "the try ends and is repeated", func() bool { return count(t, db, "tries >= 2 and last_error is not null") == 1 })
}

func TestOldMessagesAreRemovedAndUnsendableOnesGivenUp(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	s := newSender(t, db, quick(nil))
	enqueue(t, db, attempt("sent-old@example.org"), attempt("sent-new@example.org"), attempt("waits-old@example.org"), attempt("waits-new@example.org"))
	_, err := db.Exec(t.Context(), `update outbox set created_at = created_at - interval '8 days' where target like '%old%'`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(t.Context(), `update outbox set sent_at = created_at where target like 'sent%'`)
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.Cleanup(t.Context())
	if err != nil || n != 1 {
		t.Fatalf("Cleanup = %d, %v; want 1", n, err)
	}
	if count(t, db, "target like 'sent-old%'") != 0 || count(t, db, "sent_at is null and abandoned_at is not null") != 1 ||
		count(t, db, "target like 'waits-new%' and abandoned_at is null") != 1 {
		t.Error("the wrong rows were touched")
	}
	p, err := notify.Pending(t.Context(), db)
	if err != nil || len(p) != 1 || p[0].Channel != notify.ChannelMail || p[0].Count != 1 || p[0].Oldest > time.Hour {
		t.Errorf("Pending = %+v, %v", p, err)
	}
}

func TestMessageThatCouldNeverBeSentIsRefused(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	for name, m := range map[string]notify.Message{
		"channel":           {Channel: "pigeon", Topic: "a.b"},
		"topic":             {Channel: notify.ChannelMail, Topic: "Not A Topic"},
		"path in the topic": {Channel: notify.ChannelMail, Topic: "../../etc"},
		"webhook target":    {Channel: notify.ChannelWebhook, Topic: "a.b"},
		"address":           {Channel: notify.ChannelMail, Topic: "a.b", Target: "nobody"},
		"injection":         {Channel: notify.ChannelMail, Topic: "a.b", Target: "a@example.org\nBcc: b@example.org"},
		"payload":           {Channel: notify.ChannelMail, Topic: "a.b", Payload: make(chan int)},
		"NUL":               {Channel: notify.ChannelMail, Topic: "a.b", Payload: "a\x00b"},
		"size":              {Channel: notify.ChannelMail, Topic: "a.b", Payload: strings.Repeat("x", 70_000)},
	} {
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error { return notify.Enqueue(tx, m) })
		if !errors.Is(err, notify.ErrBadMessage) {
			t.Errorf("%s: Enqueue = %v", name, err)
		}
	}
	if count(t, db, "true") != 0 {
		t.Error("something was written")
	}
}

func TestConfigurationFaultsComeBackTogether(t *testing.T) {
	t.Parallel()
	_, err := notify.New(nil, notify.Config{
		Lease: time.Second, SendTimeout: time.Second, Concurrency: -1,
		Mail: notify.MailConfig{From: "nobody", SMTP: notify.SMTPConfig{Host: "mail.example.org"}},
		Webhooks: notify.WebhookConfig{Endpoints: map[string]notify.Endpoint{
			"a": {URL: "ftp://example.org"},
			"b": {URL: "https://example.org", Secrets: []func() string{func() string { return "whsec_c2hvcnQ=" }}},
		}},
	})
	for _, part := range []string{"lease", "concurrency", "mail sender", "webhook a: the URL", "webhook a: it has no secret", "webhook b: a secret"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	for _, smtp := range []notify.SMTPConfig{{Host: "h", TLS: "maybe"}, {Host: "h", Username: "u"}, {Host: "h", Port: 70_000}} {
		_, err := notify.New(nil, notify.Config{Mail: notify.MailConfig{From: "a@example.org", SMTP: smtp}})
		if err == nil {
			t.Errorf("%+v is accepted", smtp)
		}
	}
}
