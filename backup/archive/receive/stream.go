package receive

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"rootstream/backup/wal"
	"rootstream/internal/wait"
)

const (
	statusEvery = time.Second
	syncAtLeast = 1 << 20 // bytes that are written before they are synced, however much more has arrived
)

// flow is the state of one streaming connection.
type flow struct {
	l        *link
	s        *spool
	heard    time.Time // when the server last said something
	said     time.Time // when we last did
	acked    wal.LSN   // what we acknowledged
	unsynced int
}

// stream receives until the timeline ends or the connection does.
func (r *Receiver) stream(ctx context.Context, l *link, s *spool) (*branchOff, error) {
	f := &flow{l: l, s: s, heard: time.Now()}
	for {
		if end, err := r.step(ctx, f); end != nil || err != nil {
			return end, err
		}
	}
}

// step takes one message, or finds that none came. Whatever arrived together is synced together.
func (r *Receiver) step(ctx context.Context, f *flow) (*branchOff, error) {
	if err := r.awaitRoom(ctx, f); err != nil {
		return nil, err
	}
	msg, err := r.next(ctx, f)
	if err == nil && len(msg.data) > 0 {
		err = r.store(ctx, f, msg.at, msg.data)
	}
	if err != nil {
		return nil, err
	}
	over := msg.end != nil || msg.shutdown
	if over || f.unsynced >= syncAtLeast || f.unsynced > 0 && (len(msg.data) == 0 || !f.l.buffered()) {
		err = r.settle(f, over)
	} else if msg.ask || time.Since(f.said) >= statusEvery || r.acknowledged() > f.acked {
		err = r.tell(f)
	}
	if err == nil && msg.shutdown {
		err = ErrServer.WithCause(errors.New("it is shutting down"))
	}
	return msg.end, err
}

// next waits for a message, for at most as long as we may be silent, and until there is more to acknowledge.
func (r *Receiver) next(ctx context.Context, f *flow) (message, error) {
	within, cancel := context.WithTimeout(ctx, statusEvery) // also when something has arrived: it may be a part of a message
	defer cancel()
	r.mu.Lock()
	r.poke = cancel
	r.mu.Unlock()
	if r.acknowledged() > f.acked { // from now on we are poked
		return message{}, nil
	}
	msg, err := f.l.receive(within)
	if err == nil {
		f.heard = time.Now()
		if msg.server != 0 {
			r.change(func(s *State) { s.Server, s.Heard = max(s.Server, msg.server), f.heard.UTC() })
		}
		return msg, nil
	}
	if ctx.Err() != nil || within.Err() == nil || f.l.conn.IsClosed() {
		return message{}, ErrServer.WithCause(err)
	}
	if silent := time.Since(f.heard); silent > r.cfg.Patience {
		return message{}, ErrServer.WithCause(fmt.Errorf("it has been silent for %v", silent.Round(time.Second)))
	}
	return message{}, nil
}

// store writes to the spool. A disk that is full is waited for: nothing is dropped, and nothing acknowledged.
func (r *Receiver) store(ctx context.Context, f *flow, at wal.LSN, data []byte) error {
	for {
		n, err := f.s.write(at, data)
		f.unsynced += n
		at, data = at+wal.LSN(n), data[n:] //nolint:gosec // not negative
		if err == nil {
			r.change(func(s *State) { s.Received = at })
			return nil
		}
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			return err
		}
		r.note(ctx, "the disk of the spool is full", err)
		if err := r.pause(ctx, f); err != nil {
			return err
		}
	}
}

// awaitRoom holds back while the spool is full. The server hears that we live, and keeps what we have not acknowledged.
func (r *Receiver) awaitRoom(ctx context.Context, f *flow) error {
	if r.State().Spooled < r.cfg.SpoolMax {
		return nil
	}
	if err := r.settle(f, false); err != nil {
		return err
	}
	r.note(ctx, "receiving waits", ErrSpool.WithCause(fmt.Errorf("it holds %d bytes that could not be uploaded yet", r.State().Spooled)))
	for r.State().Spooled >= r.cfg.SpoolMax {
		if err := r.pause(ctx, f); err != nil {
			return err
		}
	}
	f.heard = time.Now() // we did not listen
	return nil
}

// pause waits until something left the spool, or for as long as we may be silent.
func (r *Receiver) pause(ctx context.Context, f *flow) error {
	r.change(func(s *State) { s.Doing = SpoolFull })
	defer r.change(func(s *State) { s.Doing = Streaming })
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.room:
	case <-time.After(statusEvery):
	}
	return r.tell(f)
}

// settle puts what was received on disk, and says so unless nobody listens any more.
func (r *Receiver) settle(f *flow, over bool) error {
	durable, err := f.s.sync()
	if err != nil {
		return err
	}
	f.unsynced = 0
	r.change(func(s *State) { s.Durable = durable })
	wait.Wake(r.more)
	if over {
		return nil
	}
	return r.tell(f)
}

// tell sends the server our position. When it has been silent for a while it is asked to answer.
func (r *Receiver) tell(f *flow) error {
	st := r.State()
	f.said, f.acked = time.Now(), r.acknowledged()
	return f.l.status(max(st.Received, st.Durable), f.acked, time.Since(f.heard) > r.cfg.Patience/3)
}

// acknowledged is what the server may forget, and what a synchronous commit waits for.
func (r *Receiver) acknowledged() wal.LSN {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.cfg.Remote {
		return r.state.Durable
	}
	if r.uploadedOn != r.state.Timeline {
		return 0
	}
	return min(r.state.Uploaded, r.state.Durable)
}
