package secret_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/secret"
)

func newMaster(t *testing.T) secret.MasterKey {
	t.Helper()
	m, err := secret.NewMasterKeyFile(filepath.Join(t.TempDir(), "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t *testing.T, db *postgres.DB, m secret.MasterKey) *secret.Keyset {
	t.Helper()
	return openRotating(t, db, m, 300*time.Millisecond)
}

func openRotating(t *testing.T, db *postgres.DB, m secret.MasterKey, after time.Duration) *secret.Keyset {
	t.Helper()
	k, err := secret.OpenWith(t.Context(), db, m, secret.Config{Name: "main", RotateAfter: after, Poll: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// run runs the keyset's loop until the test ends.
func run(t *testing.T, k *secret.Keyset) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

var place = secret.AD{Table: "user_mfa", Column: "secret", Row: "row-1", User: "user-1"}

func mustSeal(t *testing.T, k *secret.Keyset, ad secret.AD, plain string) []byte {
	t.Helper()
	sealed, err := k.Seal(ad, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestPitfall33CiphertextMovedElsewhereDoesNotOpen(t *testing.T) {
	t.Parallel()
	k := open(t, postgrestest.New(t), newMaster(t))
	sealed := mustSeal(t, k, place, "totp secret")
	if plain, err := k.Unseal(place, sealed); err != nil || string(plain) != "totp secret" {
		t.Fatalf("Unseal = %q, %v", plain, err)
	}
	for name, elsewhere := range map[string]secret.AD{
		"another row":    {Table: "user_mfa", Column: "secret", Row: "row-2", User: "user-1"},
		"another user":   {Table: "user_mfa", Column: "secret", Row: "row-1", User: "admin"},
		"another column": {Table: "user_mfa", Column: "name", Row: "row-1", User: "user-1"},
		"another table":  {Table: "users", Column: "secret", Row: "row-1", User: "user-1"},
	} {
		if plain, err := k.Unseal(elsewhere, sealed); !errors.Is(err, secret.ErrNotOpened) {
			t.Errorf("in %s it opens: %q, %v", name, plain, err)
		}
	}
	for name, bad := range map[string]secret.AD{
		"no table": {Column: "secret"}, "no column": {Table: "user_mfa"},
		"a colon that moves a border": {Table: "user_mfa", Column: "secret", Row: "row:1", User: "u"},
	} {
		if _, err := k.Seal(bad, nil); !errors.Is(err, secret.ErrBadAD) {
			t.Errorf("%s: Seal = %v", name, err)
		}
	}
}

func TestPitfall34EverySealingHasItsOwnDerivedKey(t *testing.T) {
	t.Parallel()
	k := open(t, postgrestest.New(t), newMaster(t))
	a, b := mustSeal(t, k, place, "same"), mustSeal(t, k, place, "same")
	// 5 bytes of key id, 12 of key derivation salt, 12 of nonce, the text, 16 of tag.
	if want := 5 + 12 + 12 + len("same") + 16; len(a) != want {
		t.Fatalf("%d bytes, want %d: the salt that derives a key per value is missing", len(a), want)
	}
	if !bytes.Equal(a[:5], b[:5]) || bytes.Equal(a[5:17], b[5:17]) || bytes.Equal(a[17:29], b[17:29]) {
		t.Error("two values share the salt of their key, or their nonce")
	}
}

func TestAlteredAndForeignValuesDoNotOpen(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	k := open(t, db, newMaster(t))
	sealed := mustSeal(t, k, place, "totp secret")
	for i := 5; i < len(sealed); i++ {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := k.Unseal(place, bad); !errors.Is(err, secret.ErrNotOpened) {
			t.Fatalf("byte %d altered: %v", i, err)
		}
	}
	for _, bad := range [][]byte{nil, {}, {1}, []byte("plain text from an older time")} {
		if _, err := k.Unseal(place, bad); !errors.Is(err, secret.ErrNotOpened) {
			t.Errorf("Unseal(%q) = %v", bad, err)
		}
	}
	other, err := secret.Open(t.Context(), db, newMaster(t), "other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Unseal(place, sealed); errs.KindOf(err) != errs.Unavailable || errs.CodeOf(err) != "keyset_stale" {
		t.Errorf("another keyset's value gives %v", err)
	}
}

func TestWrongMasterKeyIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	right := newMaster(t)
	sealed := mustSeal(t, open(t, db, right), place, "x")
	_, err := secret.Open(t.Context(), db, newMaster(t), "main")
	if !errors.Is(err, secret.ErrWrongMasterKey) || errs.KindOf(err) != errs.Forbidden || errs.Of(err).Hint == "" {
		t.Fatalf("Open = %v", err)
	}
	if plain, err := open(t, db, right).Unseal(place, sealed); err != nil || string(plain) != "x" {
		t.Errorf("afterwards the right key gives %q, %v", plain, err)
	}
}

func TestAlteredKeysetRowIsFoundAtOpen(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"canary of another keyset": `update keysets set canary = (select canary from keysets where name = 'other') where name = 'main'`,
		"keyset under another name": `update keysets set wrapped = (select wrapped from keysets where name = 'other'),
			canary = (select canary from keysets where name = 'other') where name = 'main'`,
		"promotion brought forward": `update keysets set wrapped = convert_to(replace(convert_from(wrapped, 'UTF8'),
			'"promote_at":0', '"promote_at":1'), 'UTF8') where name = 'main'`,
		"primary out of range": `update keysets set wrapped = convert_to(replace(convert_from(wrapped, 'UTF8'),
			'"primary":0', '"primary":7'), 'UTF8') where name = 'main'`,
		"format of the future": `update keysets set wrapped = convert_to(replace(convert_from(wrapped, 'UTF8'),
			'"format":1', '"format":2'), 'UTF8') where name = 'main'`,
		"rubbish": `update keysets set wrapped = 'rubbish' where name = 'main'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := postgrestest.New(t)
			m := newMaster(t)
			open(t, db, m)
			if _, err := secret.Open(t.Context(), db, m, "other"); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
			if _, err := secret.Open(t.Context(), db, m, "main"); !errors.Is(err, secret.ErrKeysetDamaged) {
				t.Errorf("Open = %v", err)
			}
		})
	}
}

func TestManyProcessesCreateOneKeyset(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	m := newMaster(t)
	const n = 16
	sets := make([]*secret.Keyset, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			k, err := secret.Open(context.Background(), db, m, "main")
			if err != nil {
				t.Error(err)
			}
			sets[i] = k
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	sealed := mustSeal(t, sets[0], place, "x")
	for i, k := range sets {
		if _, err := k.Unseal(place, sealed); err != nil {
			t.Errorf("process %d has another keyset: %v", i, err)
		}
	}
}

func TestNoKeyMaterialRestsInTheClear(t *testing.T) {
	t.Parallel()
	db := postgrestest.New(t)
	open(t, db, newMaster(t))
	var wrapped, canaryValue []byte
	if err := db.QueryRow(t.Context(), `select wrapped, canary from keysets`).Scan(&wrapped, &canaryValue); err != nil {
		t.Fatal(err)
	}
	// A cleartext Tink keyset names the type of each key beside its value.
	for _, word := range []string{"XAesGcmKey", "HkdfPrfKey", "canary: this keyset"} {
		if bytes.Contains(wrapped, []byte(word+"\x12")) || bytes.Contains(canaryValue, []byte(word)) {
			t.Errorf("the row holds %q in the clear", word)
		}
	}
	if !strings.HasPrefix(string(wrapped), `{"format":1,"master":"`) {
		t.Errorf("the row begins %.40q", wrapped)
	}
}

func TestMissingKeysetAnswersThatItIsMissing(t *testing.T) {
	t.Parallel()
	var k *secret.Keyset
	_, sealErr := k.Seal(place, nil)
	_, unsealErr := k.Unseal(place, nil)
	_, _, resealErr := k.Reseal(place, nil)
	_, macErr := k.MAC("x")
	_, macsErr := k.MACs("x")
	_, verifyErr := k.Verify("x", nil)
	_, statusErr := k.Status(t.Context())
	for i, err := range []error{sealErr, unsealErr, resealErr, macErr, macsErr, verifyErr, statusErr, k.Rotate(t.Context()), k.Reload(t.Context())} {
		if !errors.Is(err, secret.ErrKeysetMissing) || errs.KindOf(err) != errs.Unavailable || errs.CodeOf(err) != "keyset_missing" || errs.Of(err).Hint == "" {
			t.Errorf("method %d gives %v", i, err)
		}
	}
	if k.NeedsReseal([]byte("x")) {
		t.Error("NeedsReseal is true without a keyset")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
	if _, err := secret.Open(t.Context(), nil, secret.MasterKey{}, "main"); !errors.Is(err, secret.ErrKeysetMissing) {
		t.Errorf("Open without a master key = %v", err)
	}
}
