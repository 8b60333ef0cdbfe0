package notify_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/notify"
	"rootstream/postgres/postgrestest"
)

// receiver is an HTTP server that keeps what it is sent and answers as told.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	got  []received
	next []func(http.ResponseWriter) // answers, used up in order; then 204
}

type received struct {
	header http.Header
	body   []byte
	at     time.Time
}

func newReceiver(t *testing.T, answers ...func(http.ResponseWriter)) *receiver {
	t.Helper()
	r := &receiver{next: answers}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.got = append(r.got, received{req.Header.Clone(), body, time.Now()})
		answer := func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }
		if len(r.next) > 0 {
			answer, r.next = r.next[0], r.next[1:]
		}
		r.mu.Unlock()
		answer(w)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.WriteHeader(code) }
}

func hookConfig(url string, secrets ...string) notify.Config {
	cfg := quick(nil)
	e := notify.Endpoint{URL: url}
	for _, s := range secrets {
		e.Secrets = append(e.Secrets, func() string { return s })
	}
	cfg.Webhooks.Endpoints = map[string]notify.Endpoint{"ops": e}
	return cfg
}

func hook(data any) notify.Message {
	return notify.Message{Channel: notify.ChannelWebhook, Topic: "backup.failed", Target: "ops", Payload: data}
}

func TestWebhookIsSignedAsStandardWebhooksSays(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	r := newReceiver(t, status(500), status(429))
	fresh, old := notify.NewWebhookSecret(), notify.NewWebhookSecret()
	run(t, newSender(t, db, hookConfig(r.URL+"/hook?x=1", fresh, old)))
	enqueue(t, db, hook(map[string]any{"backup_id": "b1", "n": 1}))
	eventually(t, "it is sent", func() bool { return count(t, db, "sent_at is not null and tries = 3") == 1 })
	got := r.all()
	if len(got) != 3 {
		t.Fatalf("%d requests", len(got))
	}
	for i, g := range got {
		for _, secret := range []string{fresh, old} {
			if err := notify.VerifyWebhook(secret, g.header, g.body, g.at); err != nil {
				t.Errorf("try %d: %v", i+1, err)
			}
		}
		if err := notify.VerifyWebhook(notify.NewWebhookSecret(), g.header, g.body, g.at); !errors.Is(err, notify.ErrSignature) {
			t.Errorf("another secret gives %v", err)
		}
		if err := notify.VerifyWebhook(fresh, g.header, append(g.body, ' '), g.at); !errors.Is(err, notify.ErrSignature) {
			t.Errorf("another body gives %v", err)
		}
		if err := notify.VerifyWebhook(fresh, g.header, g.body, g.at.Add(6*time.Minute)); !errors.Is(err, notify.ErrSignature) {
			t.Errorf("six minutes later it gives %v", err)
		}
		if g.header.Get("Webhook-Id") != got[0].header.Get("Webhook-Id") || string(g.body) != string(got[0].body) {
			t.Errorf("try %d differs from the first: %s %s", i+1, g.header.Get("Webhook-Id"), g.body)
		}
		if n := len(strings.Fields(g.header.Get("Webhook-Signature"))); n != 2 {
			t.Errorf("%d signatures, want one a secret", n)
		}
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      map[string]any
	}
	if err := json.Unmarshal(got[0].body, &body); err != nil || body.Type != "backup.failed" || body.Data["backup_id"] != "b1" || body.Timestamp.IsZero() {
		t.Errorf("body %s, %v", got[0].body, err)
	}
	if got[0].header.Get("Content-Type") != "application/json" {
		t.Errorf("content type %q", got[0].header.Get("Content-Type"))
	}
}

// The example of the specification: github.com/standard-webhooks/standard-webhooks, its reference test data.
func TestVerifyWebhookAcceptsTheSpecificationsExample(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	h.Set("Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
	h.Set("Webhook-Timestamp", "1614265330")
	h.Set("Webhook-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1a,ignored")
	body := []byte(`{"test": 2432232314}`)
	at := time.Unix(1614265330, 0)
	if err := notify.VerifyWebhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", h, body, at); err != nil {
		t.Error(err)
	}
	h.Set("Webhook-Signature", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	if err := notify.VerifyWebhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", h, body, at); !errors.Is(err, notify.ErrSignature) {
		t.Errorf("another version gives %v", err)
	}
	if err := notify.VerifyWebhook("plain", h, body, at); !errors.Is(err, notify.ErrSignature) {
		t.Errorf("a bad secret gives %v", err)
	}
	h.Del("Webhook-Timestamp")
	if err := notify.VerifyWebhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", h, body, at); !errors.Is(err, notify.ErrSignature) {
		t.Errorf("without a timestamp: %v", err)
	}
}

func TestWebhookAnswersDecideWhatFollows(t *testing.T) {
	t.Parallel()
	elsewhere := newReceiver(t)
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter)
		want   string
	}{
		"200 is success":          {status(200), "sent_at is not null and tries = 1"},
		"410 is the end":          {status(410), "abandoned_at is not null and tries = 1"},
		"400 is tried again":      {status(400), "sent_at is not null and tries = 2"},
		"Retry-After is honoured": {func(w http.ResponseWriter) { w.Header().Set("Retry-After", "3600"); w.WriteHeader(503) }, "sent_at is null and tries = 1 and next_try_at > now() + interval '50 minutes' and next_try_at < now() + interval '70 minutes'"},
		"a redirect is not followed": {func(w http.ResponseWriter) {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(307)
		}, "sent_at is not null and tries = 2"},
		"an endless answer is cut off": {func(w http.ResponseWriter) {
			for range 1000 {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}, "sent_at is not null and tries = 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, r := postgrestest.New(t), newReceiver(t, tt.answer)
			run(t, newSender(t, db, hookConfig(r.URL, notify.NewWebhookSecret())))
			enqueue(t, db, hook(nil))
			eventually(t, tt.want, func() bool { return count(t, db, tt.want) == 1 })
		})
	}
	t.Cleanup(func() {
		if n := len(elsewhere.all()); n != 0 {
			t.Errorf("%d redirects were followed", n)
		}
	})
}

func TestWebhookReceiverThatHangsIsGivenADeadline(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	db, r := postgrestest.New(t), newReceiver(t, func(http.ResponseWriter) { <-release })
	t.Cleanup(func() { close(release) }) // before the server waits for its handlers
	cfg := hookConfig(r.URL+"/?token=url-secret", notify.NewWebhookSecret())
	cfg.SendTimeout = 200 * time.Millisecond
	run(t, newSender(t, db, cfg))
	enqueue(t, db, hook(nil))
	eventually(t, "the second try is accepted", func() bool { return count(t, db, "sent_at is not null and tries = 2") == 1 })
}

func TestWebhooksToPrivateAddressesCanBeForbidden(t *testing.T) {
	t.Parallel()
	db, r := postgrestest.New(t), newReceiver(t)
	cfg := hookConfig(strings.Replace(r.URL, "127.0.0.1", "localhost", 1)+"/?token=url-secret", notify.NewWebhookSecret())
	cfg.Webhooks.DenyPrivate = true
	run(t, newSender(t, db, cfg))
	enqueue(t, db, hook(nil))
	eventually(t, "it is refused", func() bool { return count(t, db, "last_error like '%private addresses%'") == 1 })
	if n := len(r.all()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
	if count(t, db, "last_error like '%url-secret%'") != 0 {
		t.Error("the URL is on record")
	}
}

func TestUnknownWebhookEndpointWaitsForItsConfiguration(t *testing.T) {
	t.Parallel()
	db, r := postgrestest.New(t), newReceiver(t)
	stop := run(t, newSender(t, db, hookConfig(r.URL, notify.NewWebhookSecret())))
	m := hook(nil)
	m.Target = "later"
	enqueue(t, db, m)
	eventually(t, "it fails", func() bool { return count(t, db, "last_error like '%no webhook endpoint%'") == 1 })
	stop()
	cfg := hookConfig(r.URL, notify.NewWebhookSecret())
	cfg.Webhooks.Endpoints["later"] = cfg.Webhooks.Endpoints["ops"]
	run(t, newSender(t, db, cfg))
	eventually(t, "it is sent", func() bool { return count(t, db, "sent_at is not null") == 1 })
}
