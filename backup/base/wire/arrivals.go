package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"rootstream/internal/unnamed"
)

// arrivals are the files that have come, with their sizes and checksums, in the order in which they came. They are on
// disk, in a file that nobody else can open.
type arrivals struct {
	f     *os.File
	w     *bufio.Writer
	count int
}

type arrival struct {
	path string
	size int64
	crc  uint32
}

func newArrivals() (*arrivals, error) {
	f, err := unnamed.File()
	if err != nil {
		return nil, fmt.Errorf("make a file for what arrives: %w", err)
	}
	return &arrivals{f: f, w: bufio.NewWriter(f)}, nil
}

func (a *arrivals) close() { _ = a.f.Close() }

func (a *arrivals) add(one arrival) error {
	switch {
	case a.count == mostFiles:
		return fmt.Errorf("there are more than %d files", mostFiles)
	case len(one.path) > mostName: // a name that is longer with its tablespace's folder
		return fmt.Errorf("the path has %d bytes, %d are allowed", len(one.path), mostName)
	}
	a.count++
	b := binary.AppendUvarint(a.w.AvailableBuffer(), uint64(len(one.path)))
	b = append(b, one.path...)
	b = binary.AppendUvarint(b, uint64(one.size)) //nolint:gosec // what was read is not negative
	b = binary.BigEndian.AppendUint32(b, one.crc)
	if _, err := a.w.Write(b); err != nil {
		return fmt.Errorf("note what arrives: %w", err)
	}
	return nil
}

// each returns what gives one after the other, io.EOF after the last.
func (a *arrivals) each() (next func() (arrival, error), err error) {
	if err = a.w.Flush(); err == nil {
		_, err = a.f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("note what arrives: %w", err)
	}
	r := bufio.NewReader(a.f)
	return func() (arrival, error) {
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return arrival{}, err
		}
		raw := make([]byte, min(n, mostName))
		_, failed := io.ReadFull(r, raw)
		size, err := binary.ReadUvarint(r)
		var crc [4]byte
		_, cut := io.ReadFull(r, crc[:])
		if err = errors.Join(failed, err, cut); err != nil {
			return arrival{}, fmt.Errorf("read what has arrived: %w", err)
		}
		return arrival{string(raw), int64(size), binary.BigEndian.Uint32(crc[:])}, nil //nolint:gosec // it was written so
	}, nil
}

// comparing strikes off what is listed and has arrived. A server lists files in the order in which it sends them, and
// then nothing needs to be remembered; in any other order, what has been met on one side only is.
type comparing struct {
	next     func() (arrival, error)
	unlisted map[string]arrival
	missing  map[string]listed
}

func (a *arrivals) comparing() (*comparing, error) {
	next, err := a.each()
	return &comparing{next, map[string]arrival{}, map[string]listed{}}, err
}

// list compares the next file that is listed.
func (c *comparing) list(f listed) error {
	a, err := c.next()
	switch {
	case err == nil && a.path == f.Path:
		if _, twice := c.unlisted[a.path]; twice {
			return fmt.Errorf("%.200q comes twice", a.path)
		}
		return f.compare(a)
	case err == nil:
		if err = c.arrived(a); err != nil {
			return err
		}
	case !errors.Is(err, io.EOF):
		return err
	}
	if a, found := c.unlisted[f.Path]; found {
		delete(c.unlisted, f.Path)
		return f.compare(a)
	}
	c.missing[f.Path] = f
	return nil
}

func (c *comparing) arrived(a arrival) error {
	if f, found := c.missing[a.path]; found {
		delete(c.missing, a.path)
		return f.compare(a)
	}
	if _, twice := c.unlisted[a.path]; twice {
		return fmt.Errorf("%.200q comes twice", a.path)
	}
	c.unlisted[a.path] = a
	return nil
}

// end looks at what is left.
func (c *comparing) end() error {
	for {
		a, err := c.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = c.arrived(a)
		}
		if err != nil {
			return err
		}
	}
	for path := range c.missing {
		return fmt.Errorf("it lists %.200q, which has not arrived, and %d others", path, len(c.missing)-1)
	}
	for path := range c.unlisted {
		return fmt.Errorf("it does not list %.200q, which has arrived, nor %d others", path, len(c.unlisted)-1)
	}
	return nil
}

// compare compares a file that is listed with what has arrived.
func (f listed) compare(a arrival) error {
	sum := hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, a.crc))
	switch {
	case a.size != f.Size:
		return fmt.Errorf("%.200q has %d bytes, it says %d", f.Path, a.size, f.Size)
	case f.Algorithm != "CRC32C" || f.Checksum != sum:
		return fmt.Errorf("%.200q has checksum %s, it says %.20q of %.20q", f.Path, sum, f.Checksum, f.Algorithm)
	}
	return nil
}
