package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/internal/proc"
)

// Run is one that lives. End, Abandon or a Failure ends it.
type Run struct {
	b      *Book
	id     uuid.UUID
	cancel context.CancelCauseFunc
	stop   chan struct{} // no more heartbeats
	beats  sync.WaitGroup

	mu     sync.Mutex
	failed error

	fence sync.Mutex // held while the record changes
	obj   Record
	tag   string
}

// Begin starts a run. The context it returns ends when the run is declared dead,
// fails, or ends; context.Cause says which. ErrLeaseHeld names who has the lease.
// Once the run is there for all to see, learn says which deletions are under way.
func (b *Book) Begin(ctx context.Context, info Info, learn func(context.Context) ([]string, error)) (*Run, context.Context, error) {
	r, err := b.enter(ctx, info, learn)
	if err != nil {
		return nil, nil, fmt.Errorf("begin a %s: %w", info.Kind, err)
	}
	run, cancel := context.WithCancelCause(ctx)
	r.cancel = cancel
	r.beats.Go(func() { r.heartbeat(run) })
	return r, run, nil
}

// enter writes the record, takes the lease and learns which deletions are under way, in this order: a
// deletion waits for every run that has not said that it knows of it.
func (b *Book) enter(ctx context.Context, info Info, learn func(context.Context) ([]string, error)) (*Run, error) {
	now, err := b.st.Now(ctx)
	if err != nil {
		return nil, err
	}
	if info.Host == "" {
		info.Host, _ = os.Hostname() // for people
	}
	r := &Run{b: b, id: uuid.New(), stop: make(chan struct{})}
	r.obj = Record{
		ID: r.id, Kind: info.Kind, Lease: info.Lease, Host: info.Host, Process: proc.OwnStamp(),
		Started: now.UTC(), TTL: b.ttl, State: Running,
	}
	if err = b.leaseFree(ctx, info.Lease); err != nil {
		return nil, err
	}
	if err = r.update(ctx, func(*Record) {}); err != nil {
		return nil, err
	}
	err = b.takeLease(ctx, info.Lease, r.id)
	var seen []string
	if err == nil {
		seen, err = learn(ctx)
	}
	if err == nil {
		err = r.update(ctx, func(o *Record) { o.Seen, o.Ready = seen, true })
	}
	if err != nil {
		return nil, errors.Join(err, b.st.Delete(context.WithoutCancel(ctx), r.obj.Object()))
	}
	return r, nil
}

// ID is the run's own.
func (r *Run) ID() uuid.UUID { return r.id }

// Mark is what the ids of its packs have in common.
func (r *Run) Mark() [4]byte { return [4]byte(r.id[:4]) }

// Confirm says that the run lives; ErrLeaseLost if somebody has declared it dead.
func (r *Run) Confirm(ctx context.Context) error { return r.update(ctx, func(*Record) {}) }

// Commit says that a manifest may be there from now on, and counts once Committed says so.
func (r *Run) Commit(ctx context.Context, manifest string) error {
	return r.update(ctx, func(o *Record) { o.State, o.Manifest = Committing, manifest })
}

// Committed says that the manifest counts. Nobody who declared the run dead leaves that possible.
func (r *Run) Committed(ctx context.Context) error {
	return r.update(ctx, func(o *Record) { o.State = Committed })
}

// Withdraw says that the manifest will never count.
func (r *Run) Withdraw(ctx context.Context) error {
	err := r.update(ctx, func(o *Record) { o.State = Dead })
	if errors.Is(err, ErrLeaseLost) {
		return nil // somebody else has said so
	}
	return err
}

// End ends the goroutine and the run's context.
func (r *Run) End() {
	close(r.stop)
	r.beats.Wait()
	r.cancel(ErrEnded)
}

// Forget removes the record of a run that has ended and that nobody needs to know of.
func (r *Run) Forget(ctx context.Context) error { return r.b.st.Delete(ctx, r.obj.Object()) }

// Fail ends the run's context, and is why.
func (r *Run) Fail(err error) {
	r.mu.Lock()
	if r.failed == nil {
		r.failed = err
	}
	r.mu.Unlock()
	r.cancel(err)
}

// Failure is why the run failed, if it did.
func (r *Run) Failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// heartbeat tells that the run lives, three times as often as needed. A run that could not for two thirds of its time
// to live ends: it may be declared dead soon. The time is the wall clock's, which goes on while a machine sleeps.
func (r *Run) heartbeat(ctx context.Context) {
	ttl, last := r.b.ttl, time.Now().Round(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.stop:
			return
		case <-time.After(ttl / 3):
		}
		began := time.Now().Round(0)
		if began.Sub(last) > ttl*2/3 {
			r.Fail(ErrLeaseLost.WithCause(fmt.Errorf("it could not say that it lives for %v", began.Sub(last).Round(time.Millisecond))))
			return
		}
		beat, cancel := context.WithTimeout(ctx, ttl/3)
		err := r.update(beat, func(*Record) {})
		cancel()
		if errors.Is(err, ErrLeaseLost) {
			r.Fail(err)
			return
		}
		if err == nil {
			last = began
		} else if ctx.Err() == nil {
			r.b.log.WarnContext(ctx, "a run could not say that it lives", "err", err)
		}
	}
}

// update changes the session object; ErrLeaseLost if somebody else did. A Swap
// that went wrong may have happened all the same, also later: what is there then is our own.
func (r *Run) update(ctx context.Context, change func(*Record)) error {
	r.fence.Lock()
	defer r.fence.Unlock()
	for try := 1; ; try++ {
		next := r.obj
		change(&next)
		next.Beat++
		body, err := r.b.safe.SealJSON(seal.KindSession, next.Object(), next)
		if err != nil {
			return err
		}
		tag, err := r.b.st.Swap(ctx, next.Object(), body, r.tag)
		if err == nil {
			r.obj, r.tag = next, tag
			return nil
		}
		done, fault := r.adopt(ctx, next, err)
		switch {
		case done || fault != nil:
			return fault
		case try == 3:
			return err
		}
	}
}

// adopt finds out what became of a Swap that went wrong, and whether it is done; if it is neither done nor an error, once more.
func (r *Run) adopt(ctx context.Context, next Record, cause error) (bool, error) {
	if !errors.Is(cause, storage.ErrChanged) && !errors.Is(cause, storage.ErrUnreachable) {
		return false, cause
	}
	now, tag, err := r.b.session(ctx, next.Object())
	switch {
	case storage.Gone(err) && r.tag == "":
		return false, cause
	case storage.Gone(err):
		return false, ErrLeaseLost.WithCause(errors.New("its session is gone"))
	case errors.Is(err, seal.ErrDamaged): // perhaps it said that the run is dead
		return false, ErrLeaseLost.WithCause(err)
	case err != nil:
		return false, errors.Join(cause, err)
	case now.State == Dead && next.State != Dead:
		return false, ErrLeaseLost.WithCause(errors.New("another run took over"))
	}
	r.obj, r.tag = *now, tag
	return now.State == next.State && now.Beat == next.Beat, nil
}
