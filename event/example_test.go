package event_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/internal/exampletest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
)

// An event is appended in the transaction that makes the change; who knows an old version is refused.
func ExampleAppend() {
	o, ctx := exampletest.New(), context.Background()
	defer o.End()
	db := postgrestest.New(o)
	lamp := event.Ref{Type: "lamp", ID: uuid.New()}

	for _, name := range []string{"lamp.made", "lamp.lit"} {
		err := db.InTx(ctx, func(tx *postgres.Tx) error { // change your own rows here
			return event.Append(tx, event.New{Aggregate: lamp, Name: name, Expect: event.Any})
		})
		fmt.Println(name, err)
	}
	err := db.InTx(ctx, func(tx *postgres.Tx) error {
		return event.Append(tx, event.New{Aggregate: lamp, Name: "lamp.sold", Expect: 1})
	})
	fmt.Println("on version 1:", errors.Is(err, event.ErrVersion))

	history, err := event.NewStore(db).Read(ctx, event.Page{Entity: lamp, Limit: 10})
	for _, e := range history {
		fmt.Println(e.Version, e.Name)
	}
	fmt.Println(err)
	// Output:
	// lamp.made <nil>
	// lamp.lit <nil>
	// on version 1: true
	// 1 lamp.made
	// 2 lamp.lit
	// <nil>
}
