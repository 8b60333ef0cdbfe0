package watch

import (
	"fmt"
	"sync"

	"rootstream/event"
	"rootstream/statesync"
)

// envelopes are events as they are sent, made once for all who watch.
type envelopes struct {
	mu   sync.Mutex
	of   map[envelopeKey][]byte
	last []envelopeKey // a ring
	next int
}

// envelopeKey names what an envelope says; the time tells histories apart, and what was erased is not what it was.
type envelopeKey struct {
	ref                event.Ref
	name               string
	first, version, at int64
	erased             bool
}

const keptEnvelopes = 4096

func (x *envelopes) known(key envelopeKey) ([]byte, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b, ok := x.of[key]
	return b, ok
}

// text is a change as it is sent, but for where to resume.
func (x *envelopes) text(c *statesync.Change) ([]byte, error) {
	key := envelopeKey{c.Ref, c.Name, c.FirstVersion, c.Version, c.At.UnixNano(), event.Event{Data: c.Data}.Erased()}
	shared := !c.Reset && !c.Volatile && c.Lost == 0
	if shared {
		if b, ok := x.known(key); ok {
			return b, nil
		}
	}
	data, err := c.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode an event: %w", err)
	}
	name := c.Name
	if c.Reset {
		name = "reset"
	}
	b := make([]byte, 0, len(data)+len(name)+16)
	b = append(b, "event: "...)
	b = append(b, name...)
	b = append(b, "\ndata: "...)
	b = append(b, data...)
	b = append(b, '\n')
	if shared {
		x.keep(key, b)
	}
	return b, nil
}

func (x *envelopes) keep(key envelopeKey, b []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, there := x.of[key]; there {
		return
	}
	x.of[key] = b
	if len(x.last) < keptEnvelopes {
		x.last = append(x.last, key)
		return
	}
	delete(x.of, x.last[x.next])
	x.last[x.next] = key
	x.next = (x.next + 1) % keptEnvelopes
}
