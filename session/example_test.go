package session_test

import (
	"context"
	"fmt"

	"rootstream/postgres"
	"rootstream/session"
)

func ExampleParseUserAgent() {
	fmt.Println(session.ParseUserAgent("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 " +
		"(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"))
	// Output: safari/ios/phone
}

// A session from its beginning to its end; run [session.Manager.Run] beside it.
func ExampleManager() {
	var db *postgres.DB // from postgres.Open
	ctx := context.Background()
	m, err := session.NewManager(session.Config{DB: db})
	if err != nil {
		fmt.Println(err)
		return
	}
	var made session.Created
	if err = db.InTx(ctx, func(tx *postgres.Tx) error {
		made, err = m.Create(ctx, tx, session.New{UserID: 1, AMR: []string{"pwd"}})
		return err
	}); err != nil {
		fmt.Println(err)
		return
	}
	view, err := m.Validate(ctx, made.Token.Reveal(), session.ClientHint{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = db.InTx(ctx, func(tx *postgres.Tx) error {
		return m.Revoke(ctx, tx, view.DBUserID, view.SessionID, session.Cause{Reason: "logout"})
	})
}
