package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/internal/wait"
)

// readLoop follows the stream; it goes to its end anew whenever startOver says so.
func (f *Feed) readLoop(ctx context.Context) {
	var names decoder
	for ctx.Err() == nil {
		reading, stop := context.WithCancel(ctx)
		f.reading.Store(&stop)
		err := f.cfg.Cache.Tail(reading, cache.TailConfig{
			Positions: map[string]string{cache.Sync: "$"},
			OnEntries: func(_ string, entries []cache.Entry) { f.hear(entries, &names) },
		})
		stop()
		if err != nil {
			f.cfg.Logger.ErrorContext(ctx, "the stream cannot be read", "err", err)
			_ = wait.For(ctx, time.Second)
		}
	}
}

// startOver makes readLoop look for the end of the stream again: it may be another stream.
func (f *Feed) startOver() {
	if stop := f.reading.Load(); stop != nil {
		(*stop)()
	}
}

// hear takes what was told, and hands on the events in all of it together.
func (f *Feed) hear(entries []cache.Entry, names *decoder) {
	var events []event.Event
	for _, e := range entries {
		frame := e.Get("d")
		if f.isOwn(frame) {
			continue
		}
		if !f.genuine(frame) {
			f.counters.bad.Add(1)
			continue
		}
		r := reader{b: frame[macSize:]}
		kind, from := r.byte(), r.sender()
		ok := false
		switch kind {
		case isEvents:
			events, ok = f.readEvents(&r, names, events)
		case isBeat:
			ok = f.readBeat(&r, from)
		case isCast:
			ok = f.readCast(&r, from)
		}
		if !ok {
			f.counters.bad.Add(1)
		}
	}
	f.handOn(events, &f.counters.redis)
}

// isOwn recognizes events that were committed here: nothing in them is needed.
func (f *Feed) isOwn(frame []byte) bool {
	return len(frame) > macSize && frame[macSize] == isEvents && bytes.HasPrefix(frame[macSize:], f.ownFrame[macSize:])
}

func (f *Feed) readEvents(r *reader, names *decoder, events []event.Event) ([]event.Event, bool) {
	if epoch := int64(r.uvarint()); epoch != f.epoch.Load() { //nolint:gosec // compared only
		f.counters.stale.Add(1)
		return events, !r.bad
	}
	events, err := names.events(r, events)
	if err == nil {
		f.counters.read.Add(1)
	}
	return events, err == nil
}

func (f *Feed) readBeat(r *reader, from Sender) bool {
	var b beat
	if r.bad || len(r.b) > maxBeatSize || json.Unmarshal(r.b, &b) != nil {
		return false
	}
	f.hearBeat(from, b)
	return true
}

func (f *Feed) readCast(r *reader, from Sender) bool {
	number := int64(r.uvarint()) //nolint:gosec // compared only
	sent := time.UnixMilli(r.varint())
	switch {
	case r.bad:
		return false
	case !f.fresh(from, number, sent):
		f.counters.stale.Add(1)
	default:
		f.cfg.OnBroadcast(from, r.b)
	}
	return true
}
