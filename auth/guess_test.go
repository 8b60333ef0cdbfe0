package auth_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"rootstream/auth"
	"rootstream/auth/guard/guardtest"
	"rootstream/errs"
	"rootstream/notify"
	"rootstream/user"
)

func TestWrongUnknownDisabledAndUnusableAreOneAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob, old := w.register("ada"), w.register("bob"), w.register("old")
	if _, err := w.Disable(t.Context(), auth.Console(), bob.PublicID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.db.Exec(t.Context(), `update users set password_hash = 'md5:whatever' where public_id = $1`, old.PublicID); err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{}
	for _, in := range []auth.Credentials{
		{Login: "ada", Password: "wrong"},
		{Login: "ada", Password: ""},
		{Login: "nobody", Password: password},
		{Login: "nobody@example.org", Password: password},
		{Login: "bob", Password: password},
		{Login: "old", Password: password},
		{Login: "ada", Password: strings.Repeat("x", 1<<20)},
	} {
		_, err := w.Login(t.Context(), in, from(1))
		wantCode(t, err, errs.Unauthenticated, "invalid_credentials")
		answers[fmt.Sprint(err)] = in.Login
	}
	if len(answers) != 1 {
		t.Errorf("answers differ: %v", answers)
	}
	for _, id := range []uuid.UUID{ada.PublicID, bob.PublicID, old.PublicID} {
		if w.heard(id, "user.login_failed") == 0 {
			t.Errorf("no failure in the audit trail %v", w.audit(id))
		}
	}
}

func TestPitfall30UnknownAccountsTakeTheSamePath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stillClock)
	u := w.register("ada")
	for _, login := range []string{"ada", "nobody"} {
		for i := range 7 {
			_, err := w.Login(t.Context(), auth.Credentials{Login: login, Password: "wrong"}, from(3))
			want := "invalid_credentials"
			if i >= 5 {
				want = "rate_limited"
			}
			if errs.CodeOf(err) != want {
				t.Errorf("%s, try %d: %v, want %s", login, i+1, err, want)
			}
			if wait := errs.RetryAfter(err); i >= 5 && wait != 2*time.Second {
				t.Errorf("%s, try %d: retry after %v", login, i+1, wait)
			}
		}
	}
	if w.heard(u.PublicID, "user.locked") != 1 {
		t.Errorf("audit trail %v lacks user.locked", w.audit(u.PublicID))
	}
	w.clock.Advance(2 * time.Second)
	if _, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: password}, from(3)); err != nil {
		t.Errorf("after the wait: %v", err)
	}
}

func TestPitfall30FailuresCostTheSameStatements(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	w := newWorld(t, func(o *option) {
		o.registry, o.still = registry, true
	})
	w.register("ada")
	w.login("ada")
	cost := func(what func() error) map[string]uint64 {
		before := statements(t, registry)
		if err := what(); err != nil && !errors.Is(err, auth.ErrInvalidCredentials) {
			t.Fatal(err)
		}
		after := statements(t, registry)
		for kind, n := range before {
			if after[kind] -= n; after[kind] == 0 {
				delete(after, kind)
			}
		}
		return after
	}
	login := func(name string) func() error {
		return func() error {
			_, err := w.Login(t.Context(), auth.Credentials{Login: name, Password: "wrong"}, from(3))
			return err
		}
	}
	known, unknown := cost(login("ada")), cost(login("nobody"))
	if known["batch"] != 2 || !maps.Equal(known, unknown) {
		t.Errorf("a known account costs %v, an unknown one %v", known, unknown)
	}
}

func statements(t *testing.T, registry *prometheus.Registry) map[string]uint64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "rootstream_database_query_seconds" {
				counts[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
			}
		}
	}
	return counts
}

func TestPitfall08BotnetsMeetALimitByAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) {
		o.config.Rate = auth.Rates{FreeAccount: 24, LoginAccount: 1000, LoginAnywhere: 1000}
		stillClock(o)
	})
	u := w.register("ada")
	known := from(100)
	known.DeviceID = w.login("ada").Session.Device.ID
	judged := 0
	for n := range 40 {
		_, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: "wrong"}, from(byte(n)))
		if errors.Is(err, auth.ErrInvalidCredentials) {
			judged++
		}
	}
	if judged != 12 {
		t.Errorf("%d guesses from 40 networks were judged, want 12", judged)
	}
	if w.mails(notify.TopicLockout, u.PublicID) != 1 {
		t.Errorf("%d mails to the owner, want 1", w.mails(notify.TopicLockout, u.PublicID))
	}
	_, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: password}, from(99))
	wantCode(t, err, errs.RateLimited, "rate_limited")
	// The owner's own device has a budget of its own.
	if _, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: password}, known); err != nil {
		t.Errorf("a known device is locked out: %v", err)
	}
	for i := range 6 {
		_, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: "wrong"}, known)
		if limited := errors.Is(err, auth.ErrRateLimited); limited != (i >= 5) {
			t.Errorf("known device, try %d: %v", i+1, err)
		}
	}
}

func TestPitfall04ParallelWrongPasswords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.register("ada")
	var judged, limited atomic.Int32
	var wg sync.WaitGroup
	began := time.Now()
	for range 60 {
		wg.Go(func() {
			_, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: "wrong"}, from(9))
			switch {
			case errors.Is(err, auth.ErrInvalidCredentials):
				judged.Add(1)
			case errors.Is(err, auth.ErrRateLimited):
				limited.Add(1)
			default:
				t.Errorf("answer %v", err)
			}
		})
	}
	wg.Wait()
	most := guardtest.Permitted(5, time.Since(began))
	if n := int(judged.Load()); n < 5 || n > most || n+int(limited.Load()) != 60 {
		t.Errorf("%d judged, %d refused; want at most %d judged", n, limited.Load(), most)
	}
}

func TestPitfall38LimitsHoldWhileRedisIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.patience = 500 * time.Millisecond })
	w.register("ada")
	w.redis.Kill()
	limited := 0
	for range 8 {
		if _, err := w.Login(t.Context(), auth.Credentials{Login: "ada", Password: "wrong"}, from(4)); errors.Is(err, auth.ErrRateLimited) {
			limited++
		}
	}
	if limited < 5 {
		t.Errorf("%d of 8 wrong passwords were refused, want at least 5", limited)
	}
	w.login("ada")
}

func TestWithoutRedisLimitsAreKeptInProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.noRedis = true; o.config.Rate.RegisterNetwork = 1 })
	w.register("ada")
	_, err := w.Register(t.Context(), auth.Registration{Username: "bob", Email: "bob@example.org", Password: password}, from(1))
	wantCode(t, err, errs.RateLimited, "rate_limited")
	if errs.RetryAfter(err) < time.Second {
		t.Errorf("retry after %v", errs.RetryAfter(err))
	}
	w.login("ada")
}

func TestRatesByClientNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) {
		o.config.Rate = auth.Rates{LoginNetwork: 1, MFANetwork: 1, RefreshNetwork: 1, TokenNetwork: 1, RecoveryNetwork: 1}
	})
	calls := map[string]func(c auth.Client) error{
		"login": func(c auth.Client) error {
			_, err := w.Login(t.Context(), auth.Credentials{Login: "x", Password: "y"}, c)
			return err
		},
		"mfa":     func(c auth.Client) error { _, err := w.VerifyMFA(t.Context(), auth.MFAAnswer{}, c); return err },
		"refresh": func(c auth.Client) error { _, err := w.Refresh(t.Context(), "sst_", c); return err },
		"verify":  func(c auth.Client) error { return w.VerifyEmail(t.Context(), "x", c) },
		"recover": func(c auth.Client) error { return w.RequestRecovery(t.Context(), "x", c) },
	}
	for name, call := range calls {
		if err := call(from(1)); errors.Is(err, auth.ErrRateLimited) {
			t.Errorf("%s: the first is refused", name)
		}
		if err := call(from(1)); !errors.Is(err, auth.ErrRateLimited) {
			t.Errorf("%s: the second is let through: %v", name, err)
		}
		if err := call(from(2)); errors.Is(err, auth.ErrRateLimited) {
			t.Errorf("%s: another network is refused", name)
		}
	}
}

func TestAPrefixOfManyNetworksHasFewTimesTheShareOfOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.config.Rate = auth.Rates{RegisterNetwork: 1} })
	n := 0
	register := func(ip string) error {
		n++
		name := fmt.Sprintf("ada%d", n)
		_, err := w.Register(t.Context(), auth.Registration{Username: name, Email: name + "@example.org", Password: password},
			auth.Client{IP: netip.MustParseAddr(ip)})
		return err
	}
	for _, step := range []struct {
		ip string
		ok bool
	}{
		{"2001:db8:1:0::1", true}, {"2001:db8:1:0::2", false}, // one /64
		{"2001:db8:1:1::1", true}, {"2001:db8:1:2::1", false}, // one /56
		{"2001:db8:1:100::1", true}, {"2001:db8:1:200::1", true}, {"2001:db8:1:300::1", false}, // one /48
		{"2001:db8:2::1", true},
	} {
		if err := register(step.ip); (err == nil) != step.ok || (err != nil && !errors.Is(err, auth.ErrRateLimited)) {
			t.Errorf("from %s: %v, want allowed: %v", step.ip, err, step.ok)
		}
	}
}

// Whoever guesses at tokens must not keep the hasher busy with it.
func TestAMadeUpTokenIsRefusedBeforeAnythingIsHashed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *option) { o.hasher = user.HasherConfig{Concurrency: 1, QueueTimeout: time.Millisecond} })
	slow := "$2a$11$" + strings.Repeat(".", 53) // seconds, with the race detector
	if _, err := bcrypt.Cost([]byte(slow)); err != nil {
		t.Fatal(err)
	}
	var busy sync.WaitGroup
	defer busy.Wait()
	busy.Go(func() {
		err := error(user.ErrBusy)
		for errors.Is(err, user.ErrBusy) { // the other may have the turn at first
			_, err = w.hasher.Verify(t.Context(), slow, password)
		}
	})
	for !errors.Is(w.hasher.Dummy(t.Context(), password), user.ErrBusy) {
	}
	wantCode(t, w.ConfirmRecovery(t.Context(), "sut_made-up", another, from(1)), errs.Gone, "token_gone")
	_, err := w.BootstrapAdmin(t.Context(), "sut_made-up", auth.Registration{Username: "eve", Email: "eve@example.org", Password: password}, from(1))
	wantCode(t, err, errs.Gone, "token_gone")
}

func TestANameAndAnAddressAreOneBudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stillClock)
	w.register("ada")
	guess := func(login string) error {
		_, err := w.Login(t.Context(), auth.Credentials{Login: login, Password: "wrong"}, from(2))
		return err
	}
	for i := range 5 {
		wantCode(t, guess([]string{"ada", "Ada@example.org"}[i%2]), errs.Unauthenticated, "invalid_credentials")
	}
	for _, login := range []string{"ada", "ada@example.org"} {
		if err := guess(login); !errors.Is(err, auth.ErrRateLimited) {
			t.Errorf("a sixth guess, at %s: %v", login, err)
		}
	}
}
