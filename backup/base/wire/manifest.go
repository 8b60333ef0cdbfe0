package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/jackc/pgx/v5/pgproto3"

	"rootstream/backup/replication"
	"rootstream/backup/wal"
)

// manifest is what a server's manifest says besides its files (PostgreSQL manual, "Backup Manifest Format").
type manifest struct {
	system uint64 // since 17
	ranges []walRange
}

type walRange struct {
	Timeline wal.TimelineID `json:"Timeline"`
	Start    string         `json:"Start-LSN"`
	End      string         `json:"End-LSN"`
}

// listed is a file in a manifest.
type listed struct {
	Path      string `json:"Path"`
	Encoded   string `json:"Encoded-Path"` // in hex, of a name that is not UTF-8
	Size      int64  `json:"Size"`
	Algorithm string `json:"Checksum-Algorithm"`
	Checksum  string `json:"Checksum"`
}

var errManifest = errors.New("it does not have the form of one")

// compare reads a manifest, however long, and strikes off what has arrived: nothing else has, and all of it as it says.
func (a *arrivals) compare(r io.Reader) (manifest, error) {
	c, failed := a.comparing()
	if failed != nil {
		return manifest{}, failed
	}
	sum := &allButLast{hash: sha256.New()}
	in := newChewed(io.TeeReader(r, sum))
	var m manifest
	var said string
	err := in.object(func(key string) error {
		switch key {
		case "System-Identifier":
			return in.dec.Decode(&m.system)
		case "Files":
			return in.array(func() error { return c.decode(in.dec) })
		case "WAL-Ranges":
			return in.array(func() error {
				var one walRange
				err := in.dec.Decode(&one)
				m.ranges = append(m.ranges, one)
				return err
			})
		case "Manifest-Checksum":
			return in.dec.Decode(&said)
		}
		var other json.RawMessage
		return in.dec.Decode(&other)
	})
	if err == nil {
		_, err = io.Copy(io.Discard, in.r)
	}
	if err != nil {
		return m, err
	}
	if is := hex.EncodeToString(sum.hash.Sum(nil)); is != said {
		return m, fmt.Errorf("its checksum is %s, it says %.64q", is, said)
	}
	return m, c.end()
}

// decode reads a file that is listed and compares it.
func (c *comparing) decode(dec *json.Decoder) error {
	var f listed
	if err := dec.Decode(&f); err != nil {
		return err
	}
	if f.Encoded != "" {
		raw, err := hex.DecodeString(f.Encoded)
		if err != nil {
			return err
		}
		f.Path = string(raw)
	}
	return c.list(f)
}

// chewed is JSON of any length, of which only the value at hand is in memory, and no value is long.
type chewed struct {
	r    io.Reader
	dec  *json.Decoder
	read int64
}

func newChewed(r io.Reader) *chewed {
	c := &chewed{r: r}
	c.dec = json.NewDecoder(c)
	return c
}

const longest = 64 << 10 // of a value, and of a line

func (c *chewed) Read(p []byte) (int, error) {
	if c.read-c.dec.InputOffset() > longest {
		return 0, fmt.Errorf("%w: a value is too long", errManifest)
	}
	n, err := c.r.Read(p[:min(len(p), longest)])
	c.read += int64(n)
	return n, err
}

// delim reads a bracket or a brace.
func (c *chewed) delim(want json.Delim) error {
	t, err := c.dec.Token()
	if err == nil && t != want {
		err = fmt.Errorf("%w: %v in the place of %v", errManifest, t, want)
	}
	return err
}

// object reads an object, whose values value reads.
func (c *chewed) object(value func(key string) error) error {
	if err := c.delim('{'); err != nil {
		return err
	}
	for c.dec.More() {
		t, err := c.dec.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		if err := value(key); err != nil {
			return err
		}
	}
	return c.delim('}')
}

// array reads an array, whose elements element reads.
func (c *chewed) array(element func() error) error {
	if err := c.delim('['); err != nil {
		return err
	}
	for c.dec.More() {
		if err := element(); err != nil {
			return err
		}
	}
	return c.delim(']')
}

// allButLast hashes what is written to it, without the last line: there a manifest tells the hash.
type allButLast struct {
	hash hash.Hash
	tail []byte
}

func (a *allButLast) Write(p []byte) (int, error) {
	a.tail = append(a.tail, p...)
	end := bytes.LastIndexByte(bytes.TrimSuffix(a.tail, []byte{'\n'}), '\n') + 1
	a.hash.Write(a.tail[:end])
	a.tail = append(a.tail[:0], a.tail[end:]...)
	if len(a.tail) > 2*longest {
		return 0, fmt.Errorf("%w: a line is too long", errManifest)
	}
	return len(p), nil
}

// finish hears where the backup ended. A server that found pages with a wrong checksum ends with an error.
func (b *Backup) finish(ctx context.Context, s *stream, m manifest) error {
	if err := s.pad(ctx); err != nil {
		return err
	}
	if s.copies || s.next != nil {
		return errors.New("something follows the manifest")
	}
	var err error
	if b.end.Stop, b.end.Timeline, err = position(ctx, s.hear); err != nil {
		return err
	}
	const dataCorrupted = "XX001"
	for {
		msg, err := s.hear(ctx)
		if replication.HasState(err, dataCorrupted) {
			b.end.WrongPages = true
			break
		}
		if err != nil {
			return err
		}
		if _, ready := msg.(*pgproto3.ReadyForQuery); ready {
			break
		}
	}
	return b.agree(m)
}

// agree compares what the manifest says of the log with what the server said.
func (b *Backup) agree(m manifest) error {
	if m.system != 0 && m.system != b.c.System {
		return fmt.Errorf("the manifest is of system %d, the server of %d", m.system, b.c.System)
	}
	if len(m.ranges) == 0 {
		return fmt.Errorf("the manifest: %w: it names no log", errManifest)
	}
	for _, r := range m.ranges {
		from, failed := wal.ParseLSN(r.Start)
		to, err := wal.ParseLSN(r.End)
		if err = errors.Join(failed, err); err != nil {
			return err
		}
		if r.Timeline == b.Timeline && from == b.Start && to == b.end.Stop {
			return nil
		}
	}
	return fmt.Errorf("the manifest does not name the log from %v to %v of timeline %d", b.Start, b.end.Stop, b.Timeline)
}
