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

// What an entry of the stream holds, its first byte.
const (
	isEvents byte = 'e'
	isBeat   byte = 'b'
	isCast   byte = 'v'
)

const (
	hasUser = 1 << iota
	hasActor
)

// newFrame has room for the proof, and says what it is and who it is from.
func newFrame(kind byte, from Sender) []byte {
	b := append(make([]byte, macSize, 256), kind)
	b = append(b, from.Node[:]...)
	return binary.AppendUvarint(b, uint64(from.Incarnation)) //nolint:gosec // positive
}

// appendEvents encodes events of any shards; the shard follows from the entity.
func appendEvents(b []byte, epoch int64, events []event.Event) []byte {
	room := 2 * binary.MaxVarintLen64
	for i := range events {
		room += size(&events[i])
	}
	b = slices.Grow(b, room)
	b = binary.AppendUvarint(b, uint64(epoch)) //nolint:gosec // positive
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
		b = binary.AppendUvarint(b, uint64(e.Seq))     //nolint:gosec // positive
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
func size(e *event.Event) int { return 110 + len(e.AggregateType) + len(e.Name) + len(e.Data) }

// decoder reads events from frames. Names repeat, so they are kept.
type decoder struct{ names map[string]string }

// events appends what appendEvents wrote to events. Data points into b.
func (d *decoder) events(r *reader, events []event.Event) ([]event.Event, error) {
	n := r.uvarint()
	if r.bad || n == 0 || n > maxFrameEvents {
		return events, errFrame
	}
	events = slices.Grow(events, int(n))
	before := len(events)
	for range n {
		var e event.Event
		flags := r.byte()
		e.AggregateID = r.id()
		e.Seq = int64(r.uvarint())     //nolint:gosec // checked below
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
		if r.bad || e.Seq < 1 || e.Version < 1 || flags > hasUser|hasActor {
			return events[:before], errFrame
		}
		e.Shard = e.Ref().Shard()
		events = append(events, e)
	}
	if len(r.b) > 0 {
		return events[:before], errFrame
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

func (r *reader) sender() Sender {
	return Sender{Node: r.id(), Incarnation: int64(r.uvarint())} //nolint:gosec // compared only
}

// seal puts the proof into a frame.
func (f *Feed) seal(frame []byte) (string, error) {
	mac, err := f.cfg.Auth.MAC(purpose, frame[macSize:])
	copy(frame, mac[:])
	return string(frame), err
}

// genuine reports whether a frame's proof holds.
func (f *Feed) genuine(frame []byte) bool {
	if len(frame) < macSize {
		return false
	}
	ok, err := f.cfg.Auth.Verify(purpose, frame[:macSize], frame[macSize:])
	return ok && err == nil
}

// frames cuts events into pieces that fit one.
func frames(events []event.Event) [][]event.Event {
	var out [][]event.Event
	start, bytes := 0, 0
	for i := range events {
		n := size(&events[i])
		if i > start && (i-start == maxFrameEvents || bytes+n > maxFrameBytes) {
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

// runs cuts a shard's events, which are ordered in place, where numbers are missing; repeated ones are left out.
func runs(events []event.Event) [][]event.Event {
	less := func(a, b event.Event) int { return int(a.Seq - b.Seq) }
	if !slices.IsSortedFunc(events, less) {
		slices.SortFunc(events, less)
	}
	events = slices.CompactFunc(events, func(a, b event.Event) bool { return a.Seq == b.Seq })
	var out [][]event.Event
	start := 0
	for i := range events {
		if i > start && events[i].Seq != events[i-1].Seq+1 {
			out = append(out, events[start:i])
			start = i
		}
	}
	if start < len(events) {
		out = append(out, events[start:])
	}
	return out
}
