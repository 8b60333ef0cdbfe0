package user_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"rootstream/errs"
	"rootstream/user"
)

// quick is a cost for tests that are not about cost.
var quick = user.Argon2{MemoryKiB: 64, Time: 1, Parallelism: 1}

func newHasher(tb testing.TB, cfg user.HasherConfig) *user.Hasher {
	tb.Helper()
	if cfg.QueueTimeout == 0 {
		cfg.QueueTimeout = time.Minute // the machine may be busy with other tests
	}
	h, err := user.NewHasher(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func mustHash(tb testing.TB, h *user.Hasher, password string) string {
	tb.Helper()
	hash, err := h.Hash(tb.Context(), password)
	if err != nil {
		tb.Fatal(err)
	}
	return hash
}

func verdict(tb testing.TB, h *user.Hasher, stored, password string) user.Verdict {
	tb.Helper()
	v, err := h.Verify(tb.Context(), stored, password)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func TestAHashIsAnArgon2idStringThatOnlyItsPasswordOpens(t *testing.T) {
	t.Parallel()
	h := newHasher(t, user.HasherConfig{})
	hash := mustHash(t, h, "wet socks on tuesday")
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("Hash = %s", hash)
	}
	if again := mustHash(t, h, "wet socks on tuesday"); again == hash {
		t.Error("two hashes of one password are equal: the salt is not random")
	}
	if v := verdict(t, h, hash, "wet socks on tuesday"); v != (user.Verdict{OK: true}) {
		t.Errorf("Verify of the password = %+v", v)
	}
	for _, wrong := range []string{"", "wet socks on tuesday ", "Wet socks on tuesday", hash} {
		if v := verdict(t, h, hash, wrong); v.OK {
			t.Errorf("Verify(%q) = %+v", wrong, v)
		}
	}
}

func TestHashesFromElsewhereVerifyAndAskToBeReplaced(t *testing.T) {
	t.Parallel()
	h := newHasher(t, user.HasherConfig{})
	for name, tt := range map[string]struct{ hash, password string }{
		// Made by the reference implementation.
		"argon2id": {"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password"},
		"argon2i":  {"$argon2i$v=19$m=64,t=2,p=1$c29tZXNhbHQ$jPPY92pmF6/jX6xI6wt0M6mmcMpKB+1k", "password"},
		// Openwall's crypt_blowfish, wrapper.c.
		"2a":             {"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"},
		"2b":             {"$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"},
		"2y":             {"$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"},
		"bcrypt over 72": {"$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := user.CheckHash(tt.hash); err != nil {
				t.Fatalf("CheckHash = %v", err)
			}
			if v := verdict(t, h, tt.hash, tt.password); v != (user.Verdict{OK: true, NeedsRehash: true}) {
				t.Errorf("Verify of the password = %+v", v)
			}
			if v := verdict(t, h, tt.hash, "x"+tt.password); v.OK {
				t.Errorf("Verify of a wrong password = %+v", v)
			}
		})
	}
}

func TestAPasswordOver72BytesIsWholeOnceItsBcryptHashIsReplaced(t *testing.T) {
	t.Parallel()
	h := newHasher(t, user.HasherConfig{Cost: quick})
	long := strings.Repeat("0123456789abcdef", 6)
	old, err := bcrypt.GenerateFromPassword([]byte(long)[:72], bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if v := verdict(t, h, string(old), long); !v.OK || !v.NeedsRehash {
		t.Fatalf("Verify = %+v", v)
	}
	replaced := mustHash(t, h, long)
	if verdict(t, h, replaced, long[:95]).OK {
		t.Error("the new hash ignores the end of the password")
	}
}

// Comparing the algorithm alone would leave yesterday's cost in place for ever.
func TestPitfall31AHashIsOutdatedWhenAnyParameterDiffers(t *testing.T) {
	t.Parallel()
	made := map[string]user.Argon2{
		"same":    {MemoryKiB: 128, Time: 2, Parallelism: 1},
		"memory":  {MemoryKiB: 64, Time: 2, Parallelism: 1},
		"passes":  {MemoryKiB: 128, Time: 1, Parallelism: 1},
		"lanes":   {MemoryKiB: 128, Time: 2, Parallelism: 2},
		"costier": {MemoryKiB: 256, Time: 3, Parallelism: 1},
	}
	today := newHasher(t, user.HasherConfig{Cost: made["same"]})
	for name, cost := range made {
		stored := mustHash(t, newHasher(t, user.HasherConfig{Cost: cost}), "wet socks")
		if v := verdict(t, today, stored, "wet socks"); !v.OK || v.NeedsRehash != (name != "same") {
			t.Errorf("%s: %+v", name, v)
		}
		if v := verdict(t, today, stored, "dry socks"); v.NeedsRehash {
			t.Errorf("%s: a wrong password asks for a rehash", name)
		}
	}
	short := "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc" // a salt of 8 bytes
	same := newHasher(t, user.HasherConfig{Cost: user.Argon2{MemoryKiB: 65536, Time: 2, Parallelism: 1}})
	if v := verdict(t, same, short, "password"); !v.OK || !v.NeedsRehash {
		t.Errorf("short salt: %+v", v)
	}
}

// Not parallel: it counts what the process allocates.
func TestPitfall30NobodyCostsAsMuchAsSomebody(t *testing.T) {
	h := newHasher(t, user.HasherConfig{})
	least := uint64(19 << 20)
	cost := func(stored, password string) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if v := verdict(t, h, stored, password); v.OK {
			t.Errorf("Verify(%q) = %+v", stored, v)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	for name, stored := range map[string]string{
		"no account": "", "no password": "!", "left by Phase 24.2": "5f4dcc3b5aa765d61d8327deb882cf99", "plain": "password",
		"over the limits": "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	} {
		if got := cost(stored, "password"); got < least || got > 2*least {
			t.Errorf("%s: %d bytes of work, want about %d", name, got, least)
		}
	}
	if got := cost(mustHash(t, h, "x"), strings.Repeat("y", 1<<20)); got > 3*least {
		t.Errorf("a password of 1 MiB makes %d bytes of work", got)
	}
	if err := h.Dummy(t.Context(), "password"); err != nil {
		t.Error(err)
	}
}

func TestPitfall32HashesWaitTheirTurnAndGiveUpInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHasher(t, user.HasherConfig{Cost: quick, Concurrency: 2, QueueTimeout: 3 * time.Second})
		stored := mustHash(t, h, "wet socks")
		first, second := h.Occupy(), h.Occupy()

		started := time.Now()
		_, err := h.Verify(t.Context(), stored, "wet socks")
		if !errors.Is(err, user.ErrBusy) || errs.KindOf(err) != errs.Unavailable || errs.RetryAfter(err) <= 0 {
			t.Errorf("Verify with no turn to be had = %v, kind %v", err, errs.KindOf(err))
		}
		if waited := time.Since(started); waited != 3*time.Second {
			t.Errorf("gave up after %v", waited)
		}
		if err := h.Dummy(t.Context(), "wet socks"); !errors.Is(err, user.ErrBusy) {
			t.Errorf("Dummy with no turn to be had = %v", err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Hash(ctx, "wet socks"); !errors.Is(err, user.ErrBusy) {
			t.Errorf("Hash past the caller's deadline = %v", err)
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := h.Hash(gone, "wet socks"); !errors.Is(err, context.Canceled) {
			t.Errorf("Hash for a caller who left = %v", err)
		}

		var got sync.WaitGroup
		got.Go(func() {
			if v := verdict(t, h, stored, "wet socks"); !v.OK {
				t.Error("the turn given back was not used")
			}
		})
		synctest.Wait()
		first()
		got.Wait()
		second()
	})
}

// TestTheKnownDoNotQueueBehindAllStrangers looks at who is told first. That is some time after the turn: where much else goes
// on, others may be told before. Who does queue behind all strangers is told last every time.
func TestTheKnownDoNotQueueBehindAllStrangers(t *testing.T) {
	t.Parallel()
	var order []string
	for range 5 {
		synctest.Test(t, func(t *testing.T) { order = turnsOfStrangersAndOneKnown(t) })
		if len(order) != 6 {
			t.Fatalf("turns went to %v", order)
		}
		if slices.Index(order, "known") <= 1 {
			return
		}
	}
	t.Errorf("turns went to %v", order)
}

// turnsOfStrangersAndOneKnown has five strangers wait for a turn, then one who is known, and tells in which order they had it.
func turnsOfStrangersAndOneKnown(t *testing.T) (order []string) {
	t.Helper()
	h := newHasher(t, user.HasherConfig{Cost: quick, Concurrency: 1})
	stored := mustHash(t, h, "wet socks")
	leave := h.Occupy()
	var mu sync.Mutex
	var all sync.WaitGroup
	did := func(who string, err error) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, who)
		if err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	for i := range 5 {
		all.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = h.Hash(t.Context(), "wet socks")
			} else {
				_, err = h.Verify(t.Context(), stored, "wet socks")
			}
			did("stranger", err)
		})
	}
	synctest.Wait() // they all wait
	all.Go(func() {
		_, err := h.Known().Verify(t.Context(), stored, "wet socks")
		did("known", err)
	})
	synctest.Wait()
	leave()
	all.Wait()
	return order
}

func TestPitfall38ABusyHasherNeverSaysYes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHasher(t, user.HasherConfig{Cost: quick, Concurrency: 1})
		stored := mustHash(t, h, "wet socks")
		defer h.Occupy()()
		if v, err := h.Verify(t.Context(), stored, "wet socks"); v.OK || err == nil {
			t.Errorf("Verify = %+v, %v", v, err)
		}
	})
}

func TestOnePasswordTypedInTwoUnicodeFormsIsOnePassword(t *testing.T) {
	t.Parallel()
	h := newHasher(t, user.HasherConfig{Cost: quick})
	stored := mustHash(t, h, "A\u030asa and caf\u00e9")
	for _, typed := range []string{"\u00c5sa and cafe\u0301", "\u00c5sa\u00a0and\u3000caf\u00e9"} {
		if v := verdict(t, h, stored, typed); !v.OK || v.NeedsRehash {
			t.Errorf("Verify(%+q) = %+v", typed, v)
		}
	}
	if verdict(t, h, mustHash(t, h, "x² is the answer"), "x2 is the answer").OK {
		t.Error("compatibility forms were folded")
	}
	// Made elsewhere without any preparation, from the decomposed form.
	foreign, err := bcrypt.GenerateFromPassword([]byte("cafe\u0301"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if v := verdict(t, h, string(foreign), "cafe\u0301"); !v.OK || !v.NeedsRehash {
		t.Errorf("Verify of an unprepared hash = %+v", v)
	}
}

func TestHashesThatCannotBeCheckedAreRefused(t *testing.T) {
	t.Parallel()
	const salt, key = "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	argon := func(head string) string { return head + "$" + salt + "$" + key }
	for _, tt := range []struct {
		hash string
		want error
	}{
		{"", user.ErrHashFormat},
		{"!", user.ErrHashFormat},
		{"5f4dcc3b5aa765d61d8327deb882cf99", user.ErrHashFormat},
		{"$6$rounds=5000$salt$hash", user.ErrHashFormat},
		{"$pbkdf2-sha256$29000$N2YMIWQsBWBMae09x1jrPQ$1t8iyB2A.WF/Z5JZv.lfCIhXXN33N23OSgQYThBYRfk", user.ErrHashFormat},
		{argon("$argon2d$v=19$m=65536,t=2,p=1"), user.ErrHashFormat},
		{argon("$argon2id$v=16$m=65536,t=2,p=1"), user.ErrHashFormat},
		{argon("$argon2id$m=65536,t=2,p=1"), user.ErrHashFormat},
		{argon("$argon2id$v=19$t=2,m=65536,p=1"), user.ErrHashFormat},
		{argon("$argon2id$v=19$m=065536,t=2,p=1"), user.ErrHashFormat},
		{argon("$argon2id$v=19$m=+65536,t=2,p=1"), user.ErrHashFormat},
		{argon("$argon2id$v=19$m=65536,t=2,p=1,keyid=AA"), user.ErrHashFormat},
		{argon("$argon2id$v=19$m=65536,t=2"), user.ErrHashFormat},
		{argon("$argon2id$v=19$m=99999999999,t=2,p=1"), user.ErrHashFormat},
		{argon("$argon2id$v=19$m=65536,t=2,p=1") + "$", user.ErrHashFormat},
		{"$argon2id$v=19$m=65536,t=2,p=1$" + salt + "=$" + key, user.ErrHashFormat},
		{"$argon2id$v=19$m=65536,t=2,p=1$c29tZX\nNhbHQ$" + key, user.ErrHashFormat},
		{"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHR$" + key, user.ErrHashFormat},
		{"$argon2id$v=19$m=65536,t=2,p=1$$" + key, user.ErrHashLimits},
		{"$argon2id$v=19$m=65536,t=2,p=1$" + salt + "$", user.ErrHashLimits},
		{argon("$argon2id$v=19$m=131073,t=2,p=1"), user.ErrHashLimits},
		{argon("$argon2id$v=19$m=65536,t=5,p=1"), user.ErrHashLimits},
		{argon("$argon2id$v=19$m=65536,t=0,p=1"), user.ErrHashLimits},
		{argon("$argon2id$v=19$m=65536,t=2,p=5"), user.ErrHashLimits},
		{argon("$argon2id$v=19$m=65536,t=2,p=257"), user.ErrHashLimits},
		{argon("$argon2id$v=19$m=65536,t=2,p=0"), user.ErrHashLimits},
		{argon("$argon2id$v=19$m=15,t=2,p=2"), user.ErrHashLimits},
		{"$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", user.ErrHashFormat},
		{"$2a$5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", user.ErrHashFormat},
		{"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe", user.ErrHashFormat},
		{"$2a$14$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", user.ErrHashLimits},
		{"$2a$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", user.ErrHashLimits},
		{"$2a$05$" + strings.Repeat("C", 300), user.ErrHashFormat},
		{argon("$argon2id$v=19$m=131072,t=4,p=4"), nil}, // the most there may be
		{"$2a$13$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", nil},
	} {
		if err := user.CheckHash(tt.hash); !errors.Is(err, tt.want) {
			t.Errorf("CheckHash(%q) = %v, want %v", tt.hash, err, tt.want)
		}
	}
}

func TestAHasherRefusesCostsItWouldNotVerify(t *testing.T) {
	t.Parallel()
	for _, cfg := range []user.HasherConfig{
		{Cost: user.Argon2{MemoryKiB: 2 << 20, Time: 1, Parallelism: 1}},
		{Cost: user.Argon2{MemoryKiB: 4, Time: 1, Parallelism: 1}},
		{Cost: quick, Concurrency: -1},
		{Cost: quick, QueueTimeout: -1},
	} {
		if _, err := user.NewHasher(cfg); errs.KindOf(err) != errs.Invalid {
			t.Errorf("NewHasher(%+v) = %v", cfg, err)
		}
	}
	if _, err := newHasher(t, user.HasherConfig{Cost: quick}).Hash(t.Context(), strings.Repeat("x", 1025)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("Hash of 1025 bytes = %v", err)
	}
}

func FuzzParseHash(f *testing.F) {
	for _, s := range []string{
		"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2i$v=19$m=64,t=1,p=8$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "$argon2id$", "$2b$", "!", "$argon2id$v=19$m=,t=,p=$$",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := user.CheckHash(s); err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Errorf("CheckHash(%q) = %v", s, err)
			}
			return
		}
		if again, err := user.Reformat(s); strings.HasPrefix(s, "$argon2") && (err != nil || again != s) {
			t.Errorf("Reformat(%q) = %q, %v", s, again, err)
		}
	})
}

// The differences between these three are what somebody who can only measure
// time could learn; compare with benchstat over -count=20.
func BenchmarkVerify(b *testing.B) {
	h := newHasher(b, user.HasherConfig{})
	stored := mustHash(b, h, "wet socks on tuesday")
	for name, tt := range map[string][2]string{
		"right": {stored, "wet socks on tuesday"}, "wrong": {stored, "wet socks on wednesday"}, "nobody": {"", "wet socks on tuesday"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.Verify(b.Context(), tt[0], tt[1]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestDerivingAKeyIsRepeatableAndWaitsItsTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHasher(t, user.HasherConfig{Cost: quick, Concurrency: 1})
		derive := func(password, salt string) string {
			key, err := h.Derive(t.Context(), []byte(password), []byte(salt))
			if err != nil || len(key) != 32 {
				t.Errorf("Derive = %d bytes, %v", len(key), err)
			}
			return string(key)
		}
		a := derive("code", "salt of sixteen.")
		if a != derive("code", "salt of sixteen.") || a == derive("code", "another salt....") || a == derive("Code", "salt of sixteen.") {
			t.Error("a key does not follow from secret and salt alone")
		}
		defer h.Occupy()()
		if _, err := h.Derive(t.Context(), []byte("code"), []byte("salt of sixteen.")); !errors.Is(err, user.ErrBusy) {
			t.Errorf("Derive with no turn to be had = %v", err)
		}
	})
}
