package wire

import (
	"bytes"
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Command is what a server is asked.
func Command(q Request) string { return q.command() }

// Arrived are files that have come.
type Arrived = arrivals

// Compare compares a manifest with what has arrived.
func (a arrivals) Compare(text []byte) error {
	_, err := a.compare(bytes.NewReader(text))
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
	b := &Backup{c: &Conn{}, tagged: true, archives: []archive{{}}, version: "PG_15_1", arrived: arrivals{}}
	w := &walk{b: b, s: &stream{hear: hear, tagged: true}, yield: func(e Entry, _ error) bool {
		n++
		if len(e.Path) > mostName || e.Size > mostBytes {
			panic(e.Path)
		}
		return true
	}}
	return n, w.all(context.Background())
}
