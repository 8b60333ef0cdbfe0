package feed

import (
	"context"

	"rootstream/cache"
	"rootstream/errs"
)

// publishLoop tells what was committed here. What is lost on the way the sweepers of the others find.
func (f *Feed) publishLoop(ctx context.Context) {
	for f.out.wait(ctx) {
		var sealed []string
		for _, events := range frames(f.out.take()) {
			s, err := f.seal(appendEvents(newFrame(isEvents, f.self()), f.epoch.Load(), events))
			if err != nil {
				f.cfg.Logger.ErrorContext(ctx, "a frame cannot be sealed", "err", err)
				f.counters.failed.Add(1)
				continue
			}
			sealed = append(sealed, s)
		}
		if err := f.tell(ctx, sealed...); err != nil {
			f.counters.failed.Add(int64(len(sealed)))
		} else {
			f.counters.published.Add(int64(len(sealed)))
		}
	}
}

// tell adds sealed frames to the stream in one round trip.
func (f *Feed) tell(ctx context.Context, sealed ...string) error {
	add := make([]cache.Cmd, len(sealed))
	for i, s := range sealed {
		add[i] = cache.Cmd{Name: "XADD", Key: cache.Sync, Args: []string{"MAXLEN", "~", keepInRedis, "*", "d", s}}
	}
	added, err := f.add(ctx, add)
	if err == nil || errs.KindOf(err) == errs.Unavailable {
		return err
	}
	// Something else is in the place of the stream, or its ids are used up.
	if _, err = f.cfg.Cache.Del(ctx, cache.Sync); err != nil {
		return err
	}
	_, err = f.add(ctx, add[added:])
	return err
}

// add returns how many were added before one failed.
func (f *Feed) add(ctx context.Context, cmds []cache.Cmd) (int, error) {
	results, err := f.cfg.Cache.Pipeline(ctx, cmds...)
	if err != nil {
		return 0, err
	}
	for i, r := range results {
		if r.Err != nil {
			return i, r.Err
		}
	}
	return len(cmds), nil
}
