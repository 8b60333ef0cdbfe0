package harness_test

import (
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"rootstream/tests/harness"
)

func TestTheSameSeedIsTheSameSchedule(t *testing.T) {
	t.Parallel()
	schedule := func(seed uint64) string {
		lines := func(r *rand.Rand) harness.Fault { return harness.Lines{}.Fault(r, []string{"one", "two"}[r.IntN(2)]) }
		servers := func(r *rand.Rand) harness.Fault {
			return harness.Fault{What: []string{"killed", "paused"}[r.IntN(2)], Do: func() {}, Undo: func() {}}
		}
		return harness.Print(harness.Schedule(rand.New(rand.NewPCG(seed, 0)), time.Minute, servers, lines))
	}
	first := schedule(7)
	if again := schedule(7); again != first {
		t.Errorf("seed 7 gave%s\nand then%s", first, again)
	}
	if schedule(8) == first {
		t.Error("another seed gave the same schedule")
	}
	if len(first) < 500 {
		t.Errorf("a minute of faults is only%s", first)
	}
}

func TestAnAddressIsStillFreeWhenAClientHasItsPort(t *testing.T) {
	t.Parallel()
	address, err := net.ResolveTCPAddr("tcp", harness.Address(t))
	if err != nil {
		t.Fatal(err)
	}
	listen := func(on string) net.Listener {
		l, failure := new(net.ListenConfig).Listen(t.Context(), "tcp", on)
		if failure != nil {
			t.Fatal(failure)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	server := listen("127.0.0.1:0")
	client := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: address.Port}} // as the system might choose
	conn, err := client.DialContext(t.Context(), "tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	listen(address.String())
}
