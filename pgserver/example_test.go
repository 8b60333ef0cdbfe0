package pgserver_test

import (
	"context"
	"fmt"

	"rootstream/pgserver"
)

// A server for a test or a trial restore: made in seconds, gone without a trace.
func ExampleThrowaway() {
	ctx := context.Background()
	server, err := pgserver.Throwaway(ctx, pgserver.ThrowawayConfig{SocketOnly: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("takes connections:", server.Ping(ctx) == nil)
	fmt.Println("discarded:", server.Discard(ctx) == nil)
	// Output:
	// takes connections: true
	// discarded: true
}
