package notify_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/notify"
)

func TestDirectSendsWithoutADatabase(t *testing.T) {
	t.Parallel()
	hook, secret, dir := newReceiver(t), notify.NewWebhookSecret(), t.TempDir()
	d, err := notify.NewDirect(notify.Config{
		Mail:     notify.MailConfig{From: "a@example.org", Dir: dir},
		Webhooks: notify.WebhookConfig{Endpoints: map[string]notify.Endpoint{"ops": {URL: hook.URL, Secrets: []func() string{func() string { return secret }}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err = d.Mail(t.Context(), "backup.alert", notify.Mail{To: "ops@example.org", Subject: "the backup failed", Text: "the disk is full"}); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.eml"))
	if len(files) != 1 {
		t.Fatalf("%d mails", len(files))
	}
	if raw, unread := os.ReadFile(files[0]); unread != nil || !strings.Contains(string(raw), "the disk is full") {
		t.Errorf("%s, %v", raw, unread)
	}
	if err = d.Webhook(t.Context(), "backup.alert", "ops", map[string]string{"job": "full"}); err != nil {
		t.Fatal(err)
	}
	got := hook.all()
	if len(got) != 1 {
		t.Fatalf("%d webhooks", len(got))
	}
	if err = notify.VerifyWebhook(secret, got[0].header, got[0].body, time.Now()); err != nil {
		t.Error(err)
	}
	var body struct {
		Type string
		Data map[string]string
	}
	if err = json.Unmarshal(got[0].body, &body); err != nil || body.Type != "backup.alert" || body.Data["job"] != "full" {
		t.Errorf("%s, %v", got[0].body, err)
	}
}

func TestDirectSaysWhatItCouldNotSend(t *testing.T) {
	t.Parallel()
	hook := newReceiver(t, status(http.StatusInternalServerError))
	d, err := notify.NewDirect(notify.Config{
		Webhooks: notify.WebhookConfig{Endpoints: map[string]notify.Endpoint{"ops": {URL: hook.URL, Secrets: []func() string{notify.NewWebhookSecret}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err = d.Webhook(t.Context(), "backup.alert", "ops", nil); !errors.Is(err, notify.ErrHook) {
		t.Errorf("a receiver that fails: %v", err)
	}
	if err = d.Webhook(t.Context(), "backup.alert", "nobody", nil); !errors.Is(err, notify.ErrHookUnknown) {
		t.Errorf("a receiver that is not configured: %v", err)
	}
	if err = d.Mail(t.Context(), "backup.alert", notify.Mail{To: "ops@example.org"}); !errors.Is(err, notify.ErrMail) {
		t.Errorf("no mail server: %v", err)
	}
}
