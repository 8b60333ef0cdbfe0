package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Address is a host and port that a process can have again after a restart. A port of 127.0.0.1 that nobody holds is
// given to whoever opens a connection next; of another address of the loopback network it is not.
func Address(tb testing.TB) string {
	tb.Helper()
	n := rand.Uint32() //nolint:gosec // not a secret
	host := fmt.Sprintf("127.%d.%d.%d", 1+n%250, (n>>8)%250, 1+(n>>16)%250)
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		tb.Fatalf("find an address: %v", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
