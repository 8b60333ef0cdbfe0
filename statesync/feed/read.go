package feed

import (
	"context"
	"strconv"
	"strings"
	"time"

	"rootstream/cache"
	"rootstream/event"
	"rootstream/internal/wait"
)

// readLoop follows the streams of the epoch; it starts over from what is applied whenever startOver says so.
func (f *Feed) readLoop(ctx context.Context) {
	beats, volatile := "$", "$"
	for ctx.Err() == nil {
		epoch := f.epoch.Load()
		if f.rewind.Swap(false) {
			beats, volatile = "$", "$"
		}
		positions := map[string]string{cache.SyncBeats(): beats, cache.SyncVolatile(): volatile}
		logs := make(map[string]int, event.Shards)
		for shard := range f.shards {
			key := cache.SyncLog(epoch, shard)
			logs[key] = shard
			positions[key] = strconv.FormatInt(f.shards[shard].applied.Load(), 10) + "-0"
		}
		reading, stop := context.WithCancel(ctx)
		f.retail.Store(&stop)
		if f.epoch.Load() != epoch { // it changed before anyone could tell
			stop()
		}
		names := make([]decoder, event.Shards)
		err := f.cfg.Cache.Tail(reading, cache.TailConfig{Positions: positions, OnEntries: func(stream string, entries []cache.Entry) {
			shard, isLog := logs[stream]
			last := entries[len(entries)-1].ID
			switch {
			case isLog:
				f.readFrames(stream, epoch, shard, entries, &names[shard])
			case stream == cache.SyncBeats():
				beats = last
				f.readBeats(entries)
			default:
				volatile = last
				f.readBroadcasts(entries)
			}
		}})
		stop()
		if err != nil {
			f.cfg.Logger.ErrorContext(ctx, "the streams cannot be read", "err", err)
			_ = wait.For(ctx, time.Second)
		}
	}
}

// startOver makes readLoop read again from what is applied.
func (f *Feed) startOver() {
	if stop := f.retail.Load(); stop != nil {
		(*stop)()
	}
}

func (f *Feed) readFrames(key string, epoch int64, shard int, entries []cache.Entry, d *decoder) {
	for _, e := range entries {
		if f.epoch.Load() != epoch {
			return
		}
		first, last, ok := frameSpan(e)
		if ok && last <= f.shards[shard].applied.Load() {
			continue // our own, mostly: nothing in it is needed
		}
		var events []event.Event
		if ok {
			var payload []byte
			if payload, ok = f.open(key, span(first, last), e.Get("d")); ok {
				var err error
				events, err = d.events(shard, first, last, payload)
				ok = err == nil
			}
		}
		if !ok {
			f.counters.bad.Add(1)
			f.heal(key, shard)
			continue
		}
		f.counters.read.Add(1)
		f.deliver(shard, events, &f.counters.redis)
	}
}

// frameSpan reads what numbers an entry says it holds.
func frameSpan(e cache.Entry) (first, last int64, ok bool) {
	digits, exact := strings.CutSuffix(e.ID, "-0")
	last, err1 := strconv.ParseInt(digits, 10, 64)
	first, err2 := strconv.ParseInt(string(e.Get("f")), 10, 64)
	return first, last, exact && err1 == nil && err2 == nil && first > 0 && first <= last && last-first < maxFrameEvents
}

// heal has a stream with something false in it removed by the sweeper, and read anew: the false entry may stand
// before true ones.
func (f *Feed) heal(key string, shard int) {
	now := f.cfg.Now().UnixNano()
	if now-f.healedAt[shard].Load() < int64(healEvery) {
		return
	}
	f.healedAt[shard].Store(now)
	f.cfg.Logger.Warn("a frame that is not ours was ignored", "stream", key)
	f.repair[shard].Store(true)
	f.spoilt[shard].Store(true)
	wait.Wake(f.look)
}

func (f *Feed) readBroadcasts(entries []cache.Entry) {
	for _, e := range entries {
		payload, ok := f.open(cache.SyncVolatile(), nil, e.Get("d"))
		r := reader{b: payload}
		from := Sender{Node: r.id(), Incarnation: int64(r.uvarint())} //nolint:gosec // compared only
		number := int64(r.uvarint())                                  //nolint:gosec // compared only
		sent := time.UnixMilli(r.varint())
		if !ok || r.bad {
			f.counters.bad.Add(1)
			continue
		}
		if !f.fresh(from, number, sent) {
			f.counters.stale.Add(1)
			continue
		}
		f.cfg.OnBroadcast(from, r.b)
	}
}
