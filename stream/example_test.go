package stream_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"rootstream/cache/cachetest"
	"rootstream/internal/exampletest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/stream"
)

// A stream is made, goes live, is watched and ends.
func ExampleStore() {
	o, ctx := exampletest.New(), context.Background()
	defer o.End()
	db := postgrestest.New(o)
	streams, err := stream.New(db, cachetest.New(o), stream.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ada := stream.Account{PublicID: uuid.Must(uuid.NewV7())}
	err = db.QueryRow(ctx, `insert into users (public_id, username, email, password_hash)
		values ($1, 'ada', 'ada@example.org', 'x') returning id`, ada.PublicID).Scan(&ada.ID)
	if err != nil {
		fmt.Println(err)
		return
	}

	var made stream.Created
	err = db.InTx(ctx, func(tx *postgres.Tx) error {
		if made, err = streams.Create(ctx, tx, ada, stream.Draft{Name: "Analytical engines"}); err != nil {
			return err
		}
		_, err = streams.Start(ctx, tx, ada, made.Stream.PublicID, stream.Stats{})
		return err
	})
	fmt.Println("live:", err, "printing the key shows", made.Key)

	viewer, err := streams.Join(ctx, ada, made.Stream.PublicID)
	fmt.Println("watching:", err, "for", viewer.ExpiresIn, "seconds unless renewed")

	err = db.InTx(ctx, func(tx *postgres.Tx) error {
		session, e := streams.Stop(ctx, tx, ada, made.Stream.PublicID)
		fmt.Println("peak:", session.PeakViewers, "total:", session.TotalViewers)
		return e
	})
	fmt.Println("stopped:", err)
	_, err = streams.Join(ctx, ada, made.Stream.PublicID)
	fmt.Println("joining now:", errors.Is(err, stream.ErrNotLive))
	// Output:
	// live: <nil> printing the key shows [redacted]
	// watching: <nil> for 30 seconds unless renewed
	// peak: 1 total: 1
	// stopped: <nil>
	// joining now: true
}
