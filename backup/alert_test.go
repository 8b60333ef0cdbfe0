package backup_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rootstream/backup"
	"rootstream/backup/schedule"
	"rootstream/notify"
	"rootstream/notify/notifytest"
)

// posted is what a webhook brought.
type posted struct {
	header http.Header
	body   []byte
}

// newAlerts reaches a mail server and a webhook; what arrives at the latter can be read from the channel.
func newAlerts(t *testing.T, smtp *notifytest.SMTP, hookSecret string, log io.Writer) (backup.Alerts, <-chan posted) {
	t.Helper()
	arrived := make(chan posted, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- posted{r.Header, body}
	}))
	t.Cleanup(hook.Close)
	send, err := notify.NewDirect(notify.Config{
		Mail: notify.MailConfig{From: "backups@example.org", SMTP: notify.SMTPConfig{Host: smtp.Host, Port: smtp.Port, TLS: notify.TLSNone}},
		Webhooks: notify.WebhookConfig{Endpoints: map[string]notify.Endpoint{
			"ops": {URL: hook.URL, Secrets: []func() string{func() string { return hookSecret }}},
		}},
		SendTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return backup.Alerts{
		Repository: "s3://backups/main", Mail: []string{"ops@example.org"}, Webhooks: []string{"ops"}, Send: send,
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	}, arrived
}

func TestAnAlertIsMailedPostedAndLogged(t *testing.T) {
	t.Parallel()
	planned := time.Date(2026, 11, 28, 2, 30, 0, 0, time.UTC)
	for _, tt := range []struct {
		alert    schedule.Alert
		subject  string
		contains []string
		level    string
	}{
		{
			schedule.Alert{Problem: schedule.Failed, Job: "full", Planned: planned, Error: "the storage is full"},
			"Backup: full failed",
			[]string{"28 November 2026, 02:30 UTC", "Last success: never", "Error: the storage is full", "backup schedule list"},
			"ERROR",
		},
		{
			schedule.Alert{Problem: schedule.Overdue, Job: "verify", Planned: planned, Success: planned.Add(-48 * time.Hour)},
			"Backup: verify has not succeeded in time",
			[]string{"Last success: 26 November 2026, 02:30 UTC", "s3://backups/main"},
			"ERROR",
		},
		{
			schedule.Alert{Problem: schedule.Recovered, Job: "full", Planned: planned, Success: planned},
			"Backup: full works again",
			[]string{"Last success: 28 November 2026"},
			"INFO",
		},
	} {
		var log bytes.Buffer
		secret := notify.NewWebhookSecret()
		smtp := notifytest.NewSMTP(t, notifytest.Config{})
		a, arrived := newAlerts(t, smtp, secret, &log)
		if err := a.Tell(t.Context(), tt.alert); err != nil {
			t.Fatal(err)
		}
		mail := smtp.Wait(t, 1)[0]
		if mail.Header("Subject") != tt.subject {
			t.Errorf("the subject is %q, not %q", mail.Header("Subject"), tt.subject)
		}
		for _, words := range tt.contains {
			if !strings.Contains(mail.Text(), words) {
				t.Errorf("%q is not in %q", words, mail.Text())
			}
		}
		got := <-arrived
		if err := notify.VerifyWebhook(secret, got.header, got.body, time.Now()); err != nil {
			t.Error(err)
		}
		var body struct {
			Type string
			Data struct{ Problem, Job, Repository, Text string }
		}
		if err := json.Unmarshal(got.body, &body); err != nil || body.Type != backup.TopicAlert || body.Data.Job != tt.alert.Job ||
			body.Data.Problem != string(tt.alert.Problem) || body.Data.Text != tt.subject || body.Data.Repository != a.Repository {
			t.Errorf("posted is %s, %v", got.body, err)
		}
		if !strings.Contains(log.String(), "level="+tt.level) || !strings.Contains(log.String(), "job="+tt.alert.Job) {
			t.Errorf("the log has %s", log.String())
		}
	}
}

func TestAnAlertHasFailedOnlyIfNobodyCouldBeTold(t *testing.T) {
	t.Parallel()
	deaf := notifytest.NewSMTP(t, notifytest.Config{Answer: func(command string) string {
		if strings.HasPrefix(command, "RCPT") {
			return "550 nobody here"
		}
		return ""
	}})
	var log bytes.Buffer
	a, arrived := newAlerts(t, deaf, notify.NewWebhookSecret(), &log)
	alert := schedule.Alert{Problem: schedule.Failed, Job: "full", Planned: time.Now()}
	if err := a.Tell(t.Context(), alert); err != nil || len(arrived) != 1 || !strings.Contains(log.String(), "not everybody could be told") {
		t.Errorf("one of two could be told: %v, %d posted; %s", err, len(arrived), log.String())
	}
	a.Webhooks = []string{"nobody"}
	if err := a.Tell(t.Context(), alert); !errors.Is(err, notify.ErrHookUnknown) || !strings.Contains(err.Error(), "mail to ops@example.org") {
		t.Errorf("nobody could be told: %v", err)
	}
	a.Mail, a.Webhooks = nil, nil
	if err := a.Tell(t.Context(), alert); err != nil {
		t.Errorf("the log is enough where nobody else is to be told: %v", err)
	}
}
