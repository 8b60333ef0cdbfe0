package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Address is a host and port that a process can have again after a restart. Ports that nobody holds are given to
// whoever listens or connects next, on all addresses or some: this one is of those that are only given to who asks for them.
func Address(tb testing.TB) string {
	tb.Helper()
	var err error
	for range 100 {
		n, port := rand.Uint32(), 20_000+rand.IntN(10_000) //nolint:gosec // not a secret
		address := fmt.Sprintf("127.%d.%d.%d:%d", 1+n%250, (n>>8)%250, 1+(n>>16)%250, port)
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(tb.Context(), "tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	tb.Fatalf("find an address: %v", err)
	return ""
}
