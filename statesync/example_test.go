package statesync_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"rootstream/event"
	"rootstream/internal/exampletest"
	"rootstream/postgres"
	"rootstream/postgres/postgrestest"
	"rootstream/statesync"
)

// One instance of a program: it changes an entity, reads it, and knows when somebody else was faster.
// With Config.Cache and Config.Auth, all instances hear of a change at once; without, some 50 ms later.
func Example() {
	o := exampletest.New()
	defer o.End()
	ctx, stop := context.WithCancel(context.Background())
	m, ended := exampleInstance(ctx, postgrestest.New(o))
	defer ended()
	defer stop()
	<-m.Ready()

	board := event.Ref{Type: "scoreboard", ID: uuid.New()}
	made, err := m.Update(ctx, board, func(d *statesync.Doc) error {
		d.Data["home"], d.Data["guests"] = 0, 0
		return nil
	}, statesync.UpdateOptions{})
	fmt.Println("version", made.Version, err)

	scored, err := m.Patch(ctx, board, []byte(`{"home":1}`), statesync.UpdateOptions{Expect: &made.Version})
	fmt.Println("version", scored.Version, err)
	_, err = m.Patch(ctx, board, []byte(`{"home":2}`), statesync.UpdateOptions{Expect: &made.Version})
	fmt.Println("on the old version:", errors.Is(err, event.ErrVersion))

	now, err := m.Get(ctx, board, statesync.AtLeast(scored.Token)) // on any instance
	fmt.Println("now:", now.Data, err)
	then, err := m.GetAt(ctx, board, event.At{Version: made.Version})
	fmt.Println("then:", then.Data, err)
	// Output:
	// version 1 <nil>
	// version 2 <nil>
	// on the old version: true
	// now: map[guests:0 home:1] <nil>
	// then: map[guests:0 home:0] <nil>
}

// exampleInstance joins the parts and runs their loops until ctx ends; ended waits for that.
func exampleInstance(ctx context.Context, db *postgres.DB) (m *statesync.Manager, ended func()) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	log, err := event.NewLog(event.LogConfig{DB: db, OnCommit: func(e []event.Event) { m.Offer(e) }})
	must(err)
	m, err = statesync.New(statesync.Config{DB: db, Log: log})
	must(err)
	must(m.Register(statesync.Type{Name: "scoreboard"}))
	var loops sync.WaitGroup
	for _, run := range []func(context.Context) error{log.Run, m.Run} {
		loops.Go(func() { must(run(ctx)) })
	}
	return m, loops.Wait
}
