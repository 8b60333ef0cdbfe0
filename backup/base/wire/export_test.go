package wire

import (
	"bytes"
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Command is what a server is asked.
func Command(q Request) string { return q.command() }

// Compare compares a manifest with empty files that have come.
func Compare(text []byte, paths ...string) error {
	a, err := newArrivals()
	if err != nil {
		return err
	}
	defer a.close()
	for _, p := range paths {
		if err = a.add(arrival{path: p}); err != nil {
			return err
		}
	}
	_, err = a.compare(bytes.NewReader(text))
	return err
}

var errOver = errors.New("there is no more")

// Walk goes through what messages of one copy bring, without a server, and returns how many entries there were.
func Walk(messages [][]byte) (n int, err error) {
	i := -1
	hear := func(context.Context) (pgproto3.BackendMessage, error) {
		i++
		switch {
		case i == 0:
			return &pgproto3.CopyOutResponse{}, nil
		case i <= len(messages):
			return &pgproto3.CopyData{Data: messages[i-1]}, nil
		}
		return nil, errOver
	}
	b := &Backup{c: &Conn{}, tagged: true, archives: []archive{{}}, version: "PG_15_1"}
	arrived, err := newArrivals()
	if err != nil {
		return 0, err
	}
	defer arrived.close()
	w := &walk{b: b, s: &stream{hear: hear, tagged: true}, arrived: arrived, yield: func(e Entry, _ error) bool {
		n++
		if len(e.Path) > mostName || e.Size > mostBytes {
			panic(e.Path)
		}
		return true
	}}
	return n, w.all(context.Background())
}
