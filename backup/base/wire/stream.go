package wire

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgproto3"
)

// stream cuts what the server copies to us into parts: the archives, then the manifest. Up to version 14 each is a copy
// of its own; since then all come in one, whose messages say what they are.
type stream struct {
	hear   hearing
	tagged bool
	rest   []byte // of the message at hand
	next   *part  // announced, and not yet begun
	copies bool   // a copy is under way
}

// part is something that the server announced.
type part struct {
	manifest bool
	name     string // of an archive; "" where the server does not say
}

var (
	errMessage = errors.New("a message that is none of the protocol's")
	errNoPart  = errors.New("the copy ends too early")
)

// begin goes on to the next part. What is left of the one before is an error, unless it is padding.
func (s *stream) begin(ctx context.Context) (part, error) {
	if s.next == nil {
		if err := s.pad(ctx); err != nil {
			return part{}, err
		}
	}
	if !s.copies {
		msg, err := s.hear(ctx)
		if err != nil {
			return part{}, err
		}
		if _, ok := msg.(*pgproto3.CopyOutResponse); !ok {
			return part{}, fmt.Errorf("a %T in the place of a copy", msg)
		}
		if s.copies = true; !s.tagged {
			return part{}, nil
		}
		if err := s.pad(ctx); err != nil {
			return part{}, err
		}
	}
	if s.next == nil {
		return part{}, errNoPart
	}
	p := *s.next
	s.next = nil
	return p, nil
}

// pad reads to the end of a part. A tar may be filled up with zeros.
func (s *stream) pad(ctx context.Context) error {
	const most = 64 << 10
	buf := make([]byte, most)
	for n := 0; ; {
		got, err := s.read(ctx, buf)
		if n += got; n > most {
			return errors.New("an archive goes on behind its end")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// reader reads the part at hand.
func (s *stream) reader(ctx context.Context) io.Reader {
	return readerFunc(func(p []byte) (int, error) { return s.read(ctx, p) })
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (s *stream) read(ctx context.Context, p []byte) (int, error) {
	for len(s.rest) == 0 {
		if !s.copies || s.next != nil {
			return 0, io.EOF
		}
		msg, err := s.hear(ctx)
		if err != nil {
			return 0, err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			err = s.data(m.Data)
		case *pgproto3.CopyDone:
			s.copies = false
		default:
			err = fmt.Errorf("a %T within a copy", m)
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// data takes a message of a copy.
func (s *stream) data(m []byte) error {
	if !s.tagged {
		s.rest = m
		return nil
	}
	if len(m) == 0 {
		return errMessage
	}
	kind := m[0]
	switch m = m[1:]; kind {
	case 'd':
		s.rest = m
	case 'n':
		name, _, found := bytes.Cut(m, []byte{0})
		if !found {
			return errMessage
		}
		s.next = &part{name: string(name)}
	case 'm':
		s.next = &part{manifest: true}
	case 'p': // how far the server is
	default:
		return fmt.Errorf("%w: %s", errMessage, hex.EncodeToString([]byte{kind}))
	}
	return nil
}
