package mfa_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rootstream/mfa"
	"rootstream/postgres"
)

// An account sets up an authenticator, proves it, and answers a challenge.
func ExampleManager() {
	ctx := context.Background()
	db, keys, account, done := exampleDatabase()
	defer done()
	now := time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC) // examples need a clock that stands still
	m, err := mfa.New(db, keys, mfa.Config{Issuer: "RootStream", Now: func() time.Time { return now }})
	if err != nil {
		fmt.Println(err)
		return
	}

	var e mfa.Enrollment
	err = db.InTx(ctx, func(tx *postgres.Tx) error {
		e, err = m.EnrollTOTP(ctx, tx, account)
		return err
	})
	fmt.Println("enrolled:", err, "printing it shows", e.Secret)

	code, _ := mfa.CodeAt(e.Secret.Reveal(), now) // what the owner's phone shows
	backup, err := m.ConfirmTOTP(ctx, mfa.Confirmation{
		UserID: account.UserID, UserPublicID: account.UserPublicID, FactorID: e.FactorID, Code: code,
	}, nil)
	fmt.Println("confirmed:", err, "with", len(backup), "backup codes")

	now = now.Add(30 * time.Second)
	code, _ = mfa.CodeAt(e.Secret.Reveal(), now)
	attempt := mfa.Attempt{UserID: account.UserID, UserPublicID: account.UserPublicID, Method: mfa.TOTP, Code: code}
	_, err = m.Verify(ctx, attempt, func(_ context.Context, _ *postgres.Tx, r mfa.Result) error {
		fmt.Println("granted by", r.Method)
		return nil
	})
	fmt.Println("verified:", err)
	_, err = m.Verify(ctx, attempt, nil)
	fmt.Println("once more:", errors.Is(err, mfa.ErrInvalidCode))
	// Output:
	// enrolled: <nil> printing it shows [redacted]
	// confirmed: <nil> with 10 backup codes
	// granted by totp
	// verified: <nil>
	// once more: true
}
