package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/internal/wait"
)

// A segment takes a moment to arrive, or long: looks become rarer, so that none is late by more than an eighth of the wait.
const waitFirst, waitMost = 5 * time.Millisecond, 250 * time.Millisecond

// Wait waits until all of rng is in the repository, whole or in pieces; ErrGap if ctx ends before. It looks for the
// segments, of size bytes, one by one and opens none, so it is cheap however long the log is.
func Wait(ctx context.Context, r *repo.Repo, system uint64, size uint32, rng wal.Range) error {
	w := waiter{r: r, system: system, size: size, rng: rng, at: rng.From}
	for pause := waitFirst; ; pause = min(pause*9/8, waitMost) {
		done, err := w.look(ctx)
		if done {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		if wait.For(ctx, pause) != nil {
			return ErrGap.WithCause(fmt.Errorf("%v did not arrive in time: nothing at %v", rng, w.at)).
				WithHint("is somebody archiving? see: rootstream wal status")
		}
	}
}

type waiter struct {
	r       *repo.Repo
	system  uint64
	size    uint32
	rng     wal.Range
	at      wal.LSN // up to here it is there
	history wal.History
}

// look goes on from where it last came to.
func (w *waiter) look(ctx context.Context) (done bool, err error) {
	if w.history == nil {
		h, known, err := History(ctx, w.r, w.system, w.rng.Timeline)
		if err != nil || !known {
			return false, err
		}
		w.history = h
	}
	for w.at < w.rng.To {
		to, err := w.segment(ctx)
		if err != nil || to <= w.at {
			return false, err
		}
		w.at = to
	}
	return true, nil
}

// segment returns up to where the segment at w.at is there. What an older timeline wrote counts up to where the next
// one branched off.
func (w *waiter) segment(ctx context.Context) (wal.LSN, error) {
	start, reached := w.at.SegmentStart(w.size), w.at
	for _, b := range slices.Backward(w.history) {
		if start < b.Begin.SegmentStart(w.size) || w.at >= b.End {
			continue
		}
		length, err := w.length(ctx, wal.SegmentName(b.Timeline, start, w.size))
		if err != nil {
			return 0, err
		}
		reached = max(reached, min(start+length, b.End))
	}
	if reached == start+wal.LSN(w.size) || reached >= w.rng.To || w.history.At(reached) != w.history.At(w.at) {
		return reached, nil
	}
	return w.at, nil
}

// length returns how much of a segment there is.
func (w *waiter) length(ctx context.Context, name string) (wal.LSN, error) {
	_, err := w.r.FindWAL(ctx, w.system, name)
	if !errors.Is(err, repo.ErrWALAbsent) {
		return wal.LSN(w.size), err
	}
	list, err := w.r.PieceList(ctx, w.system, name)
	length, _ := held(list)
	return length, err
}

// LastWhole returns where the whole segments on the way to a timeline end, and on which timeline to go on there; 0 if
// there are none.
func LastWhole(ctx context.Context, r *repo.Repo, system uint64, h wal.History, size uint32) (wal.TimelineID, wal.LSN, error) {
	next := h.Timeline()
	for _, b := range slices.Backward(h) {
		end, err := endOf(ctx, r, system, b.Timeline, size)
		switch {
		case err != nil:
			return 0, 0, err
		case end > b.End: // the segment in which the next one branched off is to be had of that one
			return next, b.End.SegmentStart(size), nil
		case end != 0:
			return b.Timeline, end, nil
		}
		next = b.Timeline
	}
	return 0, 0, nil
}

// endOf returns the end of the last whole segment of a timeline; 0 if there is none.
func endOf(ctx context.Context, r *repo.Repo, system uint64, tli wal.TimelineID, size uint32) (wal.LSN, error) {
	var end wal.LSN
	for s, err := range segments(ctx, r, system, tli, size) {
		if err != nil {
			return 0, err
		}
		end = s.To
	}
	return end, nil
}
