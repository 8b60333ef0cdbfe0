package feed

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"rootstream/event"
)

// purpose names the key that authenticates what instances tell each other.
const purpose = "sync.frame"

const macSize = 32

var errFrame = errors.New("the frame is not one of ours")

const (
	hasUser = 1 << iota
	hasActor
)

// appendEvents encodes contiguous events of one shard; their numbers follow from the first one's.
func appendEvents(b []byte, events []event.Event) []byte {
	b = binary.AppendUvarint(b, uint64(len(events)))
	for i := range events {
		e := &events[i]
		flags := byte(0)
		if e.UserID != nil {
			flags |= hasUser
		}
		if e.ActorID != nil {
			flags |= hasActor
		}
		b = append(b, flags)
		b = append(b, e.AggregateID[:]...)
		b = binary.AppendUvarint(b, uint64(e.Version)) //nolint:gosec // positive
		b = binary.AppendVarint(b, e.At.UnixMicro())
		b = appendBytes(b, e.AggregateType)
		b = appendBytes(b, e.Name)
		b = appendBytes(b, e.Data)
		if e.UserID != nil {
			b = append(b, e.UserID[:]...)
		}
		if e.ActorID != nil {
			b = append(b, e.ActorID[:]...)
		}
	}
	return b
}

func appendBytes[T string | json.RawMessage](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// size is at least what appendEvents needs for e.
func size(e *event.Event) int { return 100 + len(e.AggregateType) + len(e.Name) + len(e.Data) }

// decoder reads frames. Names repeat, so they are kept.
type decoder struct{ names map[string]string }

// events decodes what appendEvents wrote. Data points into b.
func (d *decoder) events(shard int, first, last int64, b []byte) ([]event.Event, error) {
	r := reader{b: b}
	n := r.uvarint()
	if r.bad || n == 0 || n > maxFrameEvents || int64(n) != last-first+1 {
		return nil, errFrame
	}
	events := make([]event.Event, n)
	for i := range events {
		e := &events[i]
		flags := r.byte()
		e.Shard, e.Seq = shard, first+int64(i)
		e.AggregateID = r.id()
		e.Version = int64(r.uvarint()) //nolint:gosec // checked below
		e.At = time.UnixMicro(r.varint()).UTC()
		e.AggregateType = d.name(r.bytes())
		e.Name = d.name(r.bytes())
		e.Data = r.bytes()
		if flags&hasUser != 0 {
			id := r.id()
			e.UserID = &id
		}
		if flags&hasActor != 0 {
			id := r.id()
			e.ActorID = &id
		}
		if r.bad || e.Version < 1 || flags > hasUser|hasActor {
			return nil, errFrame
		}
	}
	if len(r.b) > 0 {
		return nil, errFrame
	}
	return events, nil
}

func (d *decoder) name(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	if d.names == nil || len(d.names) > 1000 {
		d.names = map[string]string{}
	}
	s := string(b)
	d.names[s] = s
	return s
}

// reader takes a frame apart; once it is bad, everything read is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) id() (id uuid.UUID) {
	copy(id[:], r.take(len(id)))
	return id
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.take(n)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.take(n)
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	return r.take(int(n)) //nolint:gosec // not more than there is
}

// seal puts the proof before the payload: it holds for this stream and this place in it only.
func (f *Feed) seal(stream string, place, payload []byte) ([]byte, error) {
	mac, err := f.cfg.Auth.MAC(purpose, []byte(stream), place, payload)
	if err != nil {
		return nil, err
	}
	return append(mac[:], payload...), nil
}

// open returns the payload if the proof holds.
func (f *Feed) open(stream string, place, sealed []byte) ([]byte, bool) {
	if len(sealed) < macSize {
		return nil, false
	}
	ok, err := f.cfg.Auth.Verify(purpose, sealed[:macSize], []byte(stream), place, sealed[macSize:])
	return sealed[macSize:], ok && err == nil
}

func span(first, last int64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(first)) //nolint:gosec // bits
	return binary.BigEndian.AppendUint64(b, uint64(last))                  //nolint:gosec // bits
}

// runs cuts a shard's events, which are ordered in place, into contiguous frames; repeated ones are left out.
func runs(events []event.Event) [][]event.Event {
	less := func(a, b event.Event) int { return int(a.Seq - b.Seq) }
	if !slices.IsSortedFunc(events, less) {
		slices.SortFunc(events, less)
	}
	events = slices.CompactFunc(events, func(a, b event.Event) bool { return a.Seq == b.Seq })
	var out [][]event.Event
	start, bytes := 0, 0
	for i := range events {
		n := size(&events[i])
		if i > start && (events[i].Seq != events[i-1].Seq+1 || i-start == maxFrameEvents || bytes+n > maxFrameBytes) {
			out = append(out, events[start:i])
			start, bytes = i, 0
		}
		bytes += n
	}
	if start < len(events) {
		out = append(out, events[start:])
	}
	return out
}
