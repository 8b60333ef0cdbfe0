package repo

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"rootstream/backup/repo/codec"
	"rootstream/backup/repo/logs"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/run"
	"rootstream/backup/storage"
)

// Session is a run that writes to the repository. Commit and Abort end it.
type Session struct {
	r     *Repo
	run   *run.Run
	info  RunInfo
	packs *pack.Writer
	seen  map[pack.ID]bool // listed by deletions under way when it began
	log   []logs.Floor     // likewise
	over  bool
}

// Begin starts a run. The context it returns ends when the run is declared dead
// or cannot store something; context.Cause says which. ErrLeaseHeld names who
// has the lease.
func (r *Repo) Begin(ctx context.Context, info RunInfo) (*Session, context.Context, error) {
	if err := r.Admit(ctx, info.System); err != nil {
		return nil, nil, err
	}
	if err := r.prove(ctx); err != nil {
		return nil, nil, fmt.Errorf("begin a %s: %w", info.Kind, err)
	}
	s := &Session{r: r, info: info, seen: map[pack.ID]bool{}}
	entered, ctx, err := r.runs.Begin(ctx, info, s.learn)
	if err != nil {
		return nil, nil, err
	}
	s.run = entered
	s.packs = r.packs.NewWriter(ctx, pack.WriterConfig{
		Mark: entered.Mark(), PackSize: r.cfg.PackSize, Uploads: r.cfg.Uploads, Rate: r.cfg.Rate, Failed: entered.Fail,
	})
	return s, ctx, nil
}

// learn notes which deletions are under way.
func (s *Session) learn(ctx context.Context) ([]string, error) {
	intents, err := s.r.intents(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, in := range intents {
		ids = append(ids, in.ID)
		for _, p := range in.Packs {
			s.seen[p] = true
		}
	}
	s.log = floorsOf(intents)
	return ids, nil
}

// MayBegin refuses a backup that recovery would begin in log which had been given up when the session began, whether it
// is there or not. Commit does, too. A deletion that is declared later waits for the session, and spares what it needs.
func (s *Session) MayBegin(m *Manifest) error { return needsBelow(s.log, m) }

// MayReuse reports whether a backup of this session may need a pack of an earlier one: not if it is about to be deleted.
func (s *Session) MayReuse(p PackID) bool { return !s.seen[p] }

// NewLane returns a lane that compresses so.
func (s *Session) NewLane(c codec.Compression) (*Lane, error) { return s.packs.NewLane(c) }

// Stored is how many bytes of packs this session has stored so far.
func (s *Session) Stored() int64 { return s.packs.Stored() }

// Resumable returns what dead runs of the same kind have stored, as far as no
// deletion is about to take it. A pack that cannot be read is passed over.
func (s *Session) Resumable(ctx context.Context) (*Index, error) {
	records, err := s.r.runs.Records(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for runs to resume: %w", err)
	}
	marks := map[[4]byte]bool{}
	for _, o := range records {
		if o.State == run.Dead && o.Kind == s.info.Kind {
			marks[o.Mark()] = true
		}
	}
	if len(marks) == 0 {
		return nil, nil //nolint:nilnil // a nil Index holds none
	}
	return s.index(ctx, func(yield func(storage.Object, error) bool) {
		for o, err := range s.r.st.List(ctx, pack.Prefix) {
			id, _ := pack.ParseName(o.Name)
			if (err != nil || marks[id.Mark()] && !s.seen[id]) && !yield(o, err) {
				return
			}
		}
	})
}

// Known returns what packs of earlier backups hold, as far as no deletion is about to take it.
func (s *Session) Known(ctx context.Context, packs []PackID) (*Index, error) {
	return s.index(ctx, func(yield func(storage.Object, error) bool) {
		for _, id := range packs {
			if s.seen[id] {
				continue
			}
			o, err := s.r.st.Stat(ctx, id.Object())
			if !storage.Gone(err) && !yield(o, err) {
				return
			}
		}
	})
}

func (s *Session) index(ctx context.Context, packs iter.Seq2[storage.Object, error]) (*Index, error) {
	x, err := s.r.packs.Index(ctx, packs, s.r.cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("look for what is stored already: %w", err)
	}
	return x, nil
}

// withLease runs do as the only one that has the lease.
func (r *Repo) withLease(ctx context.Context, lease string, do func(context.Context) error) error {
	s, run, err := r.Begin(ctx, RunInfo{Kind: lease, Lease: lease})
	if err != nil {
		return err
	}
	err = do(run)
	if err == nil {
		err = s.run.Confirm(run) // whoever was stopped for long need not have noticed
	}
	if lost := s.run.Failure(); lost != nil {
		err = errors.Join(err, lost)
	}
	return errors.Join(err, s.Abort(ctx))
}

// drain waits for the packs on their way.
func (s *Session) drain() error {
	s.packs.Drain()
	return s.run.Failure()
}

// finish ends the goroutines.
func (s *Session) finish() {
	s.packs.Drain()
	s.over = true
	s.run.End()
}

// Abort ends the run; what it stored stays for a later one to resume. After Commit it does nothing.
func (s *Session) Abort(ctx context.Context) error {
	if s.over {
		return nil
	}
	s.finish()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.r.cfg.LeaseTTL)
	defer cancel()
	if errors.Is(s.run.Failure(), ErrLeaseLost) {
		return nil // it is buried already, or will be
	}
	if s.Stored() == 0 {
		return s.run.Forget(ctx)
	}
	return s.run.Withdraw(ctx)
}
