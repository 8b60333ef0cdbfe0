package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/storage"
	"rootstream/errs"
	"rootstream/internal/proc"
	"rootstream/internal/wait"
)

// RunInfo says who is about to write, and what for.
type RunInfo struct {
	Kind   string // "backup", "prune" …; a later run of the same kind can resume
	Lease  string // runs with the same lease exclude each other; "" takes none
	Host   string // for people; "" means the name of this one
	System uint64 // the cluster whose data is written; 0 means none
}

// The states of a run. Others may declare it dead; then it commits nothing any more.
const (
	running    = "running"
	committing = "committing" // its manifest may be there
	committed  = "committed"
	dead       = "dead"
)

// sessionObject is the fence of a run: it is changed by compare-and-swap alone.
type sessionObject struct {
	ID       uuid.UUID     `json:"id"`
	Kind     string        `json:"kind"`
	Lease    string        `json:"lease,omitempty"`
	Host     string        `json:"host"`
	Process  proc.Stamp    `json:"process"`
	Started  time.Time     `json:"started"`
	TTL      time.Duration `json:"ttl"`
	State    string        `json:"state"`
	Manifest string        `json:"manifest,omitempty"` // the object, once committing
	Seen     []string      `json:"seen"`               // deletions that it knows of, and keeps clear of
	Ready    bool          `json:"ready"`              // Seen is filled in
	Beat     uint64        `json:"beat"`

	damage error // the object cannot be read: all that is known is its name, and that its run can write nothing more
}

const sessionsPrefix = "sessions/"

func (o *sessionObject) name() string     { return sessionsPrefix + o.ID.String() }
func (o *sessionObject) mark() [4]byte    { return [4]byte(o.ID[:4]) }
func (o *sessionObject) over() bool       { return o.State == committed || o.State == dead }
func (o *sessionObject) unreadable() bool { return o.damage != nil }
func (o *sessionObject) String() string {
	if o.unreadable() {
		return o.damage.Error()
	}
	return fmt.Sprintf("%s on %s (pid %d) since %s", o.Kind, o.Host, o.Process.PID, o.Started.Format(time.RFC3339))
}

type leaseObject struct {
	Session uuid.UUID `json:"session"`
}

const maxLanes = 256

// Session is a run that writes to the repository. Commit and Abort end it.
type Session struct {
	r       *Repo
	id      uuid.UUID
	info    RunInfo
	seen    map[PackID]bool // listed by deletions under way when it began
	pace    pacer
	buffers chan []byte
	queue   chan *pack
	cancel  context.CancelCauseFunc

	ended   chan struct{} // no more packs
	end     sync.Once
	uploads sync.WaitGroup
	stop    chan struct{} // no more heartbeats
	beats   sync.WaitGroup
	over    bool

	mu     sync.Mutex
	sent   map[PackID]int64
	stored int64
	failed error

	fence sync.Mutex // held while the session object changes
	obj   sessionObject
	tag   string
}

// Begin starts a run. The context it returns ends when the run is declared dead
// or cannot store something; context.Cause says which. ErrLeaseHeld names who
// has the lease.
func (r *Repo) Begin(ctx context.Context, info RunInfo) (*Session, context.Context, error) {
	if err := r.admit(ctx, info.System); err != nil {
		return nil, nil, err
	}
	s, err := r.enter(ctx, info)
	if err != nil {
		return nil, nil, fmt.Errorf("begin a %s: %w", info.Kind, err)
	}
	run, cancel := context.WithCancelCause(ctx)
	s.cancel = cancel
	for range r.cfg.Uploads {
		s.buffers <- nil
		s.uploads.Go(func() { s.upload(run) })
	}
	s.beats.Go(func() { s.heartbeat(run) })
	return s, run, nil
}

// enter writes the session, takes the lease and reads which deletions are under way, in this order: a
// deletion waits for every session that has not said that it knows of it.
func (r *Repo) enter(ctx context.Context, info RunInfo) (*Session, error) {
	now, err := r.st.Now(ctx)
	if err != nil {
		return nil, err
	}
	if info.Host == "" {
		info.Host, _ = os.Hostname() // for people
	}
	s := &Session{
		r: r, id: uuid.New(), info: info, seen: map[PackID]bool{}, sent: map[PackID]int64{}, pace: pacer{rate: r.cfg.Rate},
		buffers: make(chan []byte, maxLanes+r.cfg.Uploads), queue: make(chan *pack), ended: make(chan struct{}), stop: make(chan struct{}),
	}
	s.obj = sessionObject{
		ID: s.id, Kind: info.Kind, Lease: info.Lease, Host: info.Host, Process: proc.OwnStamp(),
		Started: now.UTC(), TTL: r.cfg.LeaseTTL, State: running,
	}
	if err = r.leaseFree(ctx, info.Lease); err != nil {
		return nil, err
	}
	if err = s.update(ctx, func(*sessionObject) {}); err != nil {
		return nil, err
	}
	err = r.takeLease(ctx, info.Lease, s.id)
	if err == nil {
		err = s.learn(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, r.st.Delete(context.WithoutCancel(ctx), s.obj.name()))
	}
	return s, nil
}

// learn notes which deletions are under way.
func (s *Session) learn(ctx context.Context) error {
	intents, err := s.r.intents(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for _, in := range intents {
		ids = append(ids, in.ID)
		for _, p := range in.Packs {
			s.seen[p] = true
		}
	}
	return s.update(ctx, func(o *sessionObject) { o.Seen, o.Ready = ids, true })
}

// mark is what the ids of the session's packs have in common.
func (s *Session) mark() [4]byte { return [4]byte(s.id[:4]) }

// MayReuse reports whether a backup of this session may need a pack of an earlier one: not if it is about to be deleted.
func (s *Session) MayReuse(p PackID) bool { return !s.seen[p] }

// fail ends the run.
func (s *Session) fail(err error) {
	s.mu.Lock()
	if s.failed == nil {
		s.failed = err
	}
	s.mu.Unlock()
	s.cancel(err)
}

func (s *Session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// heartbeat tells that the run lives, three times as often as needed. A run that could not for two thirds of its time
// to live ends: it may be declared dead soon. The time is the wall clock's, which goes on while a machine sleeps.
func (s *Session) heartbeat(ctx context.Context) {
	ttl, last := s.r.cfg.LeaseTTL, time.Now().Round(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.stop:
			return
		case <-time.After(ttl / 3):
		}
		began := time.Now().Round(0)
		if began.Sub(last) > ttl*2/3 {
			s.fail(ErrLeaseLost.WithCause(fmt.Errorf("it could not say that it lives for %v", began.Sub(last).Round(time.Millisecond))))
			return
		}
		beat, cancel := context.WithTimeout(ctx, ttl/3)
		err := s.update(beat, func(*sessionObject) {})
		cancel()
		if errors.Is(err, ErrLeaseLost) {
			s.fail(err)
			return
		}
		if err == nil {
			last = began
		} else if ctx.Err() == nil {
			s.r.cfg.Logger.WarnContext(ctx, "a run could not say that it lives", "err", err)
		}
	}
}

// update changes the session object; ErrLeaseLost if somebody else did. A Swap
// that went wrong may have happened all the same, also later: what is there then is our own.
func (s *Session) update(ctx context.Context, change func(*sessionObject)) error {
	s.fence.Lock()
	defer s.fence.Unlock()
	for try := 1; ; try++ {
		next := s.obj
		change(&next)
		next.Beat++
		body, err := s.r.sealJSON(kindSession, next.name(), next)
		if err != nil {
			return err
		}
		tag, err := s.r.st.Swap(ctx, next.name(), body, s.tag)
		if err == nil {
			s.obj, s.tag = next, tag
			return nil
		}
		done, err := s.adopt(ctx, next, err)
		if done || err != nil || try == 3 {
			return err
		}
	}
}

// adopt finds out what became of a Swap that went wrong, and whether it is done; if it is neither done nor an error, once more.
func (s *Session) adopt(ctx context.Context, next sessionObject, cause error) (bool, error) {
	if !errors.Is(cause, storage.ErrChanged) && !errors.Is(cause, storage.ErrUnreachable) {
		return false, cause
	}
	now, tag, err := s.r.session(ctx, next.name())
	switch {
	case isGone(err) && s.tag == "":
		return false, cause
	case isGone(err):
		return false, ErrLeaseLost.WithCause(errors.New("its session is gone"))
	case errors.Is(err, ErrDamaged): // perhaps it said that the run is dead
		return false, ErrLeaseLost.WithCause(err)
	case err != nil:
		return false, errors.Join(cause, err)
	case now.State == dead && next.State != dead:
		return false, ErrLeaseLost.WithCause(errors.New("another run took over"))
	}
	s.obj, s.tag = *now, tag
	return now.State == next.State && now.Beat == next.Beat, nil
}

// session reads a session with the tag that it has had at the latest when it was read.
func (r *Repo) session(ctx context.Context, name string) (*sessionObject, string, error) {
	info, err := r.st.Stat(ctx, name)
	if err != nil {
		return nil, "", err
	}
	var o sessionObject
	err = r.getJSON(ctx, kindSession, name, &o)
	if err == nil && o.name() != name {
		err = damaged(name, "it belongs elsewhere")
	}
	if errors.Is(err, ErrDamaged) {
		err = errs.Of(err).WithHint("whether what this run wrote counts is not known: once no run is under way, check with backup verify, then remove " +
			name + " from " + r.st.URL())
	}
	return &o, info.Tag, err
}

// look reads a session, and takes one that is damaged for a run that goes on until its time to live is over.
func (r *Repo) look(ctx context.Context, name string) (*sessionObject, string, error) {
	o, tag, err := r.session(ctx, name)
	if !errors.Is(err, ErrDamaged) {
		return o, tag, err
	}
	info, gone := r.st.Stat(ctx, name)
	if gone != nil {
		return nil, "", gone
	}
	now, unknown := r.st.Now(ctx)
	if unknown != nil {
		return nil, "", unknown
	}
	o = &sessionObject{State: running, Started: time.Unix(0, 0), damage: err}
	o.ID, _ = uuid.Parse(strings.TrimPrefix(name, sessionsPrefix)) // if it is none, no run has this session
	if now.Sub(info.Modified) > r.cfg.LeaseTTL {
		o.State = dead
	}
	return o, info.Tag, nil
}

// sessions reads all of them.
func (r *Repo) sessions(ctx context.Context) ([]*sessionObject, error) {
	var all []*sessionObject
	for info, err := range r.st.List(ctx, sessionsPrefix) {
		if err != nil {
			return nil, err
		}
		o, _, err := r.look(ctx, info.Name)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

// bury declares a run dead whose process is gone, or that has not said for its time to live that it
// lives, and takes its manifest away. It names the run if that lives; "" means that it is over.
func (r *Repo) bury(ctx context.Context, name string) (alive string, err error) {
	o, tag, err := r.look(ctx, name)
	switch {
	case isGone(err):
		return "", nil
	case err != nil:
		return "", err
	case o.over():
		return "", nil
	case o.unreadable():
		return o.String(), nil
	}
	why, err := r.signOfDeath(ctx, o, tag)
	if err != nil || why == "" {
		return o.String(), err
	}
	manifest := o.Manifest
	o.State = dead
	body, err := r.sealJSON(kindSession, name, o)
	if err != nil {
		return "", err
	}
	if _, err := r.st.Swap(ctx, name, body, tag); errors.Is(err, storage.ErrChanged) {
		return o.String(), nil // it lives after all
	} else if err != nil {
		return "", err
	}
	r.cfg.Logger.WarnContext(ctx, "a run is taken for dead", "run", o.String(), "why", why)
	if manifest != "" {
		return "", r.st.Delete(ctx, manifest)
	}
	return "", nil
}

// signOfDeath says why a run is taken for dead; "" if it may live.
func (r *Repo) signOfDeath(ctx context.Context, o *sessionObject, tag string) (string, error) {
	if o.Process.Ended() {
		return "its process is gone", nil
	}
	info, err := r.st.Stat(ctx, o.name())
	if isGone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	now, err := r.st.Now(ctx)
	if err != nil || info.Tag != tag || now.Sub(info.Modified) <= o.TTL {
		return "", err
	}
	return "it has not said for long that it lives", nil
}

// leaseFree refuses early: no session is written for a lease that is held.
func (r *Repo) leaseFree(ctx context.Context, lease string) error {
	if lease == "" {
		return nil
	}
	_, err := r.leaseTag(ctx, lease, uuid.Nil)
	return err
}

// leaseTag returns the tag of a lease whose holder is over, for a session that wants it.
func (r *Repo) leaseTag(ctx context.Context, lease string, session uuid.UUID) (string, error) {
	name := "leases/" + lease
	info, err := r.st.Stat(ctx, name)
	if isGone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var held leaseObject
	var holder string
	unreadable := r.getJSON(ctx, kindLease, name, &held)
	switch {
	case unreadable == nil:
		holder, err = r.bury(ctx, sessionsPrefix+held.Session.String())
	case isGone(unreadable):
		return "", nil
	case errors.Is(unreadable, ErrDamaged):
		holder, err = r.holder(ctx, lease, session)
	default:
		return "", unreadable
	}
	if err != nil {
		return "", err
	}
	if holder != "" {
		return "", ErrLeaseHeld.WithCause(errors.New(holder))
	}
	if unreadable != nil && info.Tag == "" { // what is so large that it has none cannot be replaced
		return "", errs.Of(unreadable).WithHint("no run is under way that has this lease: remove " + name + " from " + r.st.URL())
	}
	return info.Tag, nil
}

// holder finds, for a session that wants it, who has a lease that cannot be read: whoever may have it.
func (r *Repo) holder(ctx context.Context, lease string, session uuid.UUID) (string, error) {
	all, err := r.sessions(ctx)
	if err != nil {
		return "", err
	}
	for _, o := range all {
		if o.ID == session || o.over() || o.Lease != lease && o.damage == nil {
			continue
		}
		if alive, err := r.bury(ctx, o.name()); err != nil || alive != "" {
			return alive, err
		}
	}
	return "", nil
}

// takeLease makes the session the holder of the lease. It never gives it back: a lease whose holder is over is free.
func (r *Repo) takeLease(ctx context.Context, lease string, session uuid.UUID) error {
	if lease == "" {
		return nil
	}
	if strings.Contains(lease, "/") {
		return ErrInvalid.WithCause(fmt.Errorf("lease %q", lease))
	}
	name := "leases/" + lease
	body, err := r.sealJSON(kindLease, name, leaseObject{session})
	if err != nil {
		return err
	}
	for {
		tag, err := r.leaseTag(ctx, lease, session)
		if err != nil {
			return err
		}
		_, err = r.st.Swap(ctx, name, body, tag)
		if !errors.Is(err, storage.ErrChanged) {
			return err
		}
		if err := wait.For(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// withLease runs do as the only one that has the lease.
func (r *Repo) withLease(ctx context.Context, lease string, do func(context.Context) error) error {
	s, run, err := r.Begin(ctx, RunInfo{Kind: lease, Lease: lease})
	if err != nil {
		return err
	}
	err = do(run)
	if err == nil {
		err = s.update(run, func(*sessionObject) {}) // whoever was stopped for long need not have noticed
	}
	if lost := s.failure(); lost != nil {
		err = errors.Join(err, lost)
	}
	return errors.Join(err, s.Abort(ctx))
}

// drain waits for the packs on their way.
func (s *Session) drain() error {
	s.end.Do(func() { close(s.ended) })
	s.uploads.Wait()
	return s.failure()
}

// finish ends the goroutines.
func (s *Session) finish() {
	_ = s.drain() // what failed is on record
	s.over = true
	close(s.stop)
	s.beats.Wait()
	s.cancel(errEnded)
}

// Abort ends the run; what it stored stays for a later one to resume. After Commit it does nothing.
func (s *Session) Abort(ctx context.Context) error {
	if s.over {
		return nil
	}
	s.finish()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.r.cfg.LeaseTTL)
	defer cancel()
	if errors.Is(s.failure(), ErrLeaseLost) {
		return nil // it is buried already, or will be
	}
	if s.Stored() == 0 {
		return s.r.st.Delete(ctx, s.obj.name())
	}
	return s.update(ctx, func(o *sessionObject) { o.State = dead })
}
