package user_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
	"rootstream/user"
)

func issue(tb testing.TB, s *user.Store, db *postgres.DB, r user.TokenRequest) (token secret.Secret) {
	tb.Helper()
	inTx(tb, db, func(tx *postgres.Tx) (err error) {
		token, err = s.IssueToken(tb.Context(), tx, r)
		return err
	})
	return token
}

func consume(tb testing.TB, s *user.Store, db *postgres.DB, p user.Purpose, token string) (got user.Token, err error) {
	tb.Helper()
	err = db.InTx(tb.Context(), func(tx *postgres.Tx) (err error) {
		got, err = s.ConsumeToken(tb.Context(), tx, p, token)
		return err
	})
	return got, err
}

func TestATokenIsGoodOnceForItsPurposeAlone(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	detail := map[string]string{"email": "new@example.org"}
	token := issue(t, s, db, user.TokenRequest{Purpose: user.VerifyEmail, UserID: u.PublicID, TTL: time.Hour, Detail: detail})
	if text := token.Reveal(); !strings.HasPrefix(text, "sut_") || len(text) != 47 {
		t.Errorf("token %q", text)
	}
	if _, err := consume(t, s, db, user.Recover, token.Reveal()); !errors.Is(err, user.ErrTokenGone) {
		t.Errorf("for another purpose: %v", err)
	}
	got, err := consume(t, s, db, user.VerifyEmail, token.Reveal())
	want := user.Token{Purpose: user.VerifyEmail, UserID: u.PublicID, Detail: detail}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if _, err := consume(t, s, db, user.VerifyEmail, token.Reveal()); !errors.Is(err, user.ErrTokenGone) || errs.KindOf(err) != errs.Gone {
		t.Errorf("the second time: %v", err)
	}
}

func TestACheckedTokenIsNotUsedUp(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	token := issue(t, s, db, user.TokenRequest{Purpose: user.FirstAdmin, TTL: time.Hour}).Reveal()
	for range 2 {
		if err := s.CheckToken(t.Context(), user.FirstAdmin, token); err != nil {
			t.Error(err)
		}
	}
	if err := s.CheckToken(t.Context(), user.Recover, token); !errors.Is(err, user.ErrTokenGone) {
		t.Errorf("for another purpose: %v", err)
	}
	if _, err := consume(t, s, db, user.FirstAdmin, token); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckToken(t.Context(), user.FirstAdmin, token); !errors.Is(err, user.ErrTokenGone) {
		t.Errorf("once it is used: %v", err)
	}
}

func TestATokenMayBeNobodysYet(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	token := issue(t, s, db, user.TokenRequest{Purpose: user.FirstAdmin, TTL: 30 * time.Minute})
	got, err := consume(t, s, db, user.FirstAdmin, token.Reveal())
	if err != nil || got.UserID != uuid.Nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAnExpiredTokenIsGone(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	token := issue(t, s, db, user.TokenRequest{Purpose: user.FirstAdmin, TTL: time.Hour})
	if _, err := db.Exec(t.Context(), "update user_tokens set expires_at = clock_timestamp()"); err != nil {
		t.Fatal(err)
	}
	if _, err := consume(t, s, db, user.FirstAdmin, token.Reveal()); !errors.Is(err, user.ErrTokenGone) {
		t.Errorf("ConsumeToken = %v", err)
	}
	for _, ttl := range []time.Duration{0, -time.Second, 31 * 24 * time.Hour} {
		err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
			_, err := s.IssueToken(t.Context(), tx, user.TokenRequest{Purpose: user.FirstAdmin, TTL: ttl})
			return err
		})
		if errs.KindOf(err) != errs.Invalid {
			t.Errorf("IssueToken for %v = %v", ttl, err)
		}
	}
}

func TestOfManyWhoUseOneTokenAtOnceExactlyOneGetsIt(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	token := issue(t, s, db, user.TokenRequest{Purpose: user.FirstAdmin, TTL: time.Hour}).Reveal()
	var won atomic.Int32
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			switch _, err := consume(t, s, db, user.FirstAdmin, token); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, user.ErrTokenGone):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Errorf("%d got it", won.Load())
	}
}

func TestPitfall11ATokenIsUsedUpOnlyTogetherWithWhatItGrants(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u := mustCreate(t, s, db, "ada")
	token := issue(t, s, db, user.TokenRequest{Purpose: user.VerifyEmail, UserID: u.PublicID, TTL: time.Hour}).Reveal()
	failed := errors.New("the grant failed")
	err := db.InTx(t.Context(), func(tx *postgres.Tx) error {
		if _, err := s.ConsumeToken(t.Context(), tx, user.VerifyEmail, token); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	inTx(t, db, func(tx *postgres.Tx) error {
		got, err := s.ConsumeToken(t.Context(), tx, user.VerifyEmail, token)
		if err == nil {
			_, err = s.MarkVerified(t.Context(), tx, got.UserID, uuid.Nil)
		}
		return err
	})
	if got, err := s.ByID(t.Context(), u.ID); err != nil || !got.IsVerified {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPitfall16AStoredHashIsNoToken(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	token := issue(t, s, db, user.TokenRequest{Purpose: user.FirstAdmin, TTL: time.Hour}).Reveal()
	hash := sha256.Sum256([]byte(token))
	if n := count(t, db, "select count(*) from user_tokens where token_hash = $1", hash[:]); n != 1 {
		t.Fatalf("%d rows hold the hash", n)
	}
	if n := count(t, db, "select count(*) from user_tokens t where t::text like '%' || $1 || '%'", token); n != 0 {
		t.Error("the table holds the token")
	}
	for _, forged := range []string{string(hash[:]), hex.EncodeToString(hash[:]), "\\x" + hex.EncodeToString(hash[:]), "", "sut_", "\x00\xff"} {
		if _, err := consume(t, s, db, user.FirstAdmin, forged); !errors.Is(err, user.ErrTokenGone) {
			t.Errorf("ConsumeToken(%q) = %v", forged, err)
		}
	}
}

func TestMailingAgainNeverPilesUpLiveLinks(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	u, other := mustCreate(t, s, db, "ada"), mustCreate(t, s, db, "bob")
	r := user.TokenRequest{Purpose: user.Recover, UserID: u.PublicID, TTL: time.Hour}
	issue(t, s, db, user.TokenRequest{Purpose: user.Recover, UserID: other.PublicID, TTL: time.Hour})
	var tokens []string
	for range 7 {
		tokens = append(tokens, issue(t, s, db, r).Reveal())
	}
	if n := count(t, db, "select count(*) from user_tokens"); n != 6 {
		t.Errorf("%d live tokens, want 5 and the other account's", n)
	}
	if _, err := consume(t, s, db, user.Recover, tokens[1]); !errors.Is(err, user.ErrTokenGone) {
		t.Errorf("the second: %v", err)
	}
	if _, err := consume(t, s, db, user.Recover, tokens[2]); err != nil {
		t.Errorf("the third: %v", err)
	}
}

func TestOldTokensAreRemovedInSmallBatches(t *testing.T) {
	t.Parallel()
	s, db := newStore(t)
	for range 5 {
		issue(t, s, db, user.TokenRequest{Purpose: user.FirstAdmin, TTL: time.Minute})
	}
	kept := issue(t, s, db, user.TokenRequest{Purpose: user.FirstAdmin, TTL: time.Hour})
	clean := func() (n int64) {
		inTx(t, db, func(tx *postgres.Tx) (err error) {
			n, err = s.CleanupTokens(t.Context(), tx, time.Now().Add(30*time.Minute), 3)
			return err
		})
		return n
	}
	if a, b, c := clean(), clean(), clean(); a != 3 || b != 2 || c != 0 {
		t.Errorf("removed %d, %d, %d", a, b, c)
	}
	if _, err := consume(t, s, db, user.FirstAdmin, kept.Reveal()); err != nil {
		t.Error(err)
	}
}
