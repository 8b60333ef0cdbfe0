package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"rootstream/internal/exampletest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/session"
)

func ExampleParseUserAgent() {
	fmt.Println(session.ParseUserAgent("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 " +
		"(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"))
	// Output: safari/ios/phone
}

// A session from its beginning to its end. A program that does not run
// [session.Manager.Run] hears of no revocation, so its manager accepts no token.
func ExampleManager() {
	o, ctx := exampletest.New(), context.Background()
	defer o.End()
	db := postgrestest.New(o)
	var ada int64
	if err := db.QueryRow(ctx, "insert into users (username, email, password_hash) values ('ada', 'ada@example.org', 'x') returning id").Scan(&ada); err != nil {
		fmt.Println(err)
		return
	}
	m, err := session.NewManager(session.Config{DB: db})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = m.Run(ctx) })
	defer running.Wait()
	defer stop()
	for !m.Ready() {
		<-time.After(time.Millisecond)
	}

	var made session.Created
	err = db.InTx(ctx, func(tx *postgres.Tx) error {
		made, err = m.Create(ctx, tx, session.New{UserID: ada, AMR: []string{"pwd"}, Device: session.Device{Name: "Laptop"}})
		return err
	})
	fmt.Println("made:", err, "printing the token shows", made.Token)

	view, err := m.Validate(ctx, made.Token.Reveal(), session.ClientHint{})
	fmt.Println("valid:", err, "at level", view.AAL)

	err = db.InTx(ctx, func(tx *postgres.Tx) error {
		return m.Revoke(ctx, tx, view.DBUserID, view.SessionID, session.Cause{Reason: "logout"})
	})
	fmt.Println("revoked:", err)
	_, err = m.Validate(ctx, made.Token.Reveal(), session.ClientHint{})
	fmt.Println("refused:", errors.Is(err, session.ErrInvalid))
	// Output:
	// made: <nil> printing the token shows [redacted]
	// valid: <nil> at level 1
	// revoked: <nil>
	// refused: true
}
