package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"rootstream/internal/wait"
)

// Config says what runs, and how. Jobs, Book, Run, Alert and Owner are required.
type Config struct {
	Jobs   []Job
	Book   Book
	Owner  string                                            // names this process; no other has the name
	Run    func(ctx context.Context, k Kind) (string, error) // does what a job does; the result is a backup's id or empty
	Empty  func(ctx context.Context) (bool, error)           // reports that there is no backup yet; nil: there is
	Alert  func(ctx context.Context, a Alert) error          // tells people; repeated until it works
	Look   time.Duration                                     // between looks at the ledger; 0 means 15s
	Lease  time.Duration                                     // a claim not renewed for so long is void; 0 means 2m
	Blind  time.Duration                                     // without the ledger for so long, people are told; 0 means 15m
	Watch  func(jobs []Job, l Ledger, now time.Time)         // sees the ledger at each look; nil means nobody does
	Logger *slog.Logger                                      // nil means slog.Default
}

// Scheduler is one of the processes that could run what is due.
type Scheduler struct {
	cfg   Config
	seen  time.Time // when the ledger was last read, by this machine's clock
	blind bool      // people were told that it cannot be
}

// New checks cfg and returns a scheduler that does nothing before [Scheduler.Run].
func New(cfg Config) (*Scheduler, error) {
	if err := Check(cfg.Jobs); err != nil {
		return nil, err
	}
	if cfg.Book == nil || cfg.Run == nil || cfg.Alert == nil || cfg.Owner == "" {
		return nil, errors.New("schedule: book, run, alert and owner are required")
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&cfg.Look, 15 * time.Second}, {&cfg.Lease, 2 * time.Minute}, {&cfg.Blind, 15 * time.Minute}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Logger = cfg.Logger.With("component", "backup_schedule")
	return &Scheduler{cfg: cfg, seen: time.Now()}, nil
}

// Run runs what is due until ctx ends; what runs then is broken off.
func (s *Scheduler) Run(ctx context.Context) error {
	for {
		ran, err := s.Pass(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a wanted stop
		}
		if err != nil {
			s.cfg.Logger.WarnContext(ctx, "the schedule was not looked at", "err", err)
			s.sightless(ctx, err)
		}
		if ran && err == nil {
			continue // something else may be due
		}
		if wait.For(ctx, s.cfg.Look) != nil {
			return nil //nolint:nilerr // a wanted stop
		}
	}
}

// sightless tells people, once, that the ledger cannot be reached for long: then nothing else could tell them.
func (s *Scheduler) sightless(ctx context.Context, cause error) {
	if s.blind || time.Since(s.seen) < s.cfg.Blind {
		return
	}
	a := Alert{Problem: Overdue, Job: "the schedule", Planned: s.seen, Error: cause.Error()}
	if err := s.cfg.Alert(ctx, a); err != nil {
		s.cfg.Logger.ErrorContext(ctx, "nobody could be told", "problem", string(a.Problem), "job", a.Job, "err", err)
		return
	}
	s.blind = true
}

// Pass looks at the ledger once: it tells people what they have to know, and
// runs the first thing that is due, if no other process runs anything. It
// reports whether it ran something; how that ended is in the ledger.
func (s *Scheduler) Pass(ctx context.Context) (ran bool, err error) {
	var claim *Claim
	var alerts []Alert
	err = s.change(ctx, func(l *Ledger, now time.Time) (bool, error) {
		changed := l.adopt(s.cfg.Jobs, now)
		changed = l.free(now) || changed
		alerts = s.turn(l, now)
		claim, err = s.claim(ctx, l, now)
		return changed || claim != nil || len(alerts) > 0, err
	})
	if err != nil {
		return false, err
	}
	if len(alerts) > 0 {
		err = s.tell(ctx, alerts)
	}
	if claim != nil {
		return true, errors.Join(err, s.run(ctx, *claim))
	}
	return false, err
}

// claim takes up the first thing that is due.
func (s *Scheduler) claim(ctx context.Context, l *Ledger, now time.Time) (*Claim, error) {
	if l.Claim != nil {
		return nil, nil //nolint:nilnil // somebody is at work
	}
	empty := s.cfg.Empty != nil && !l.succeeded()
	if empty {
		var err error
		if empty, err = s.cfg.Empty(ctx); err != nil {
			return nil, fmt.Errorf("look for backups: %w", err)
		}
	}
	due := Decide(s.cfg.Jobs, *l, now, empty)
	if len(due) == 0 {
		return nil, nil //nolint:nilnil // nothing to do
	}
	if due[0].Job.Name() == askedName(due[0].Job.Kind) {
		delete(l.Asked, due[0].Job.Kind)
	}
	l.Claim = &Claim{
		Owner: s.cfg.Owner, Job: due[0].Job.Name(), Kind: due[0].Job.Kind,
		Planned: due[0].Planned, Started: now, Until: now.Add(s.cfg.Lease),
	}
	return l.Claim, nil
}

// run does what was claimed and writes down how it ended.
func (s *Scheduler) run(ctx context.Context, c Claim) error {
	work, cancel := context.WithCancelCause(ctx)
	renewing := make(chan struct{})
	go func() {
		defer close(renewing)
		s.renew(work, c, cancel)
	}()
	s.cfg.Logger.InfoContext(ctx, "a planned run begins", "job", c.Job, "planned", c.Planned)
	result, err := s.cfg.Run(work, c.Kind)
	lost := errors.Is(context.Cause(work), ErrLost)
	cancel(nil)
	<-renewing
	o := Outcome{Result: result}
	switch {
	case lost:
		return ErrLost
	case err != nil && ctx.Err() != nil:
		o.Error = "the process was asked to stop"
	case err != nil:
		o.Error = short(err)
		s.cfg.Logger.ErrorContext(ctx, "a planned run failed", "job", c.Job, "err", err)
	default:
		s.cfg.Logger.InfoContext(ctx, "a planned run succeeded", "job", c.Job, "result", result)
	}
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Lease)
	defer stop()
	return s.change(last, func(l *Ledger, now time.Time) (bool, error) {
		if l.Claim == nil || !l.Claim.same(c) {
			return false, ErrLost
		}
		l.settle(c, o, now)
		if o.Error == "" {
			l.cover(s.cfg.Jobs, c.Kind, now)
		}
		return true, nil
	})
}

// same reports whether two claims are of one run.
func (c Claim) same(d Claim) bool {
	return c.Owner == d.Owner && c.Job == d.Job && c.Started.Equal(d.Started)
}

// renew keeps a claim while its work goes on, and ends the work when the claim is lost.
func (s *Scheduler) renew(ctx context.Context, c Claim, lost context.CancelCauseFunc) {
	for kept := time.Now(); wait.For(ctx, s.cfg.Lease/4) == nil; {
		err := s.change(ctx, func(l *Ledger, now time.Time) (bool, error) {
			if l.Claim == nil || !l.Claim.same(c) {
				return false, ErrLost
			}
			l.Claim.Until = now.Add(s.cfg.Lease)
			return true, nil
		})
		switch {
		case err == nil:
			kept = time.Now()
		case errors.Is(err, ErrLost):
			s.cfg.Logger.ErrorContext(ctx, "a planned run is broken off: another process took over", "job", c.Job)
			lost(ErrLost)
			return
		case ctx.Err() == nil:
			s.cfg.Logger.WarnContext(ctx, "a claim was not renewed", "job", c.Job, "err", err, "since", time.Since(kept))
		}
	}
}

// turn returns what people have to be told, if it is this process that tells them.
func (s *Scheduler) turn(l *Ledger, now time.Time) []Alert {
	if l.Teller != nil && now.Before(l.Teller.Until) {
		return nil
	}
	alerts := Problems(s.cfg.Jobs, *l, now)
	if len(alerts) > 0 {
		l.Teller = &Turn{s.cfg.Owner, now.Add(s.cfg.Lease)}
	}
	return alerts
}

// tell sends alerts and notes those that were sent; the others are sent at a later look.
func (s *Scheduler) tell(ctx context.Context, alerts []Alert) error {
	var failed []error
	sent := make([]Alert, 0, len(alerts))
	for _, a := range alerts {
		if err := s.cfg.Alert(ctx, a); err != nil {
			failed = append(failed, fmt.Errorf("tell that %s %s: %w", a.Job, a.Problem, err))
			continue
		}
		sent = append(sent, a)
	}
	err := s.change(ctx, func(l *Ledger, _ time.Time) (bool, error) {
		if l.Teller != nil && l.Teller.Owner == s.cfg.Owner {
			l.Teller = nil
		}
		for _, a := range sent {
			l.told(a)
		}
		return true, nil
	})
	return errors.Join(append(failed, err)...)
}

func (s *Scheduler) change(ctx context.Context, fn func(l *Ledger, now time.Time) (bool, error)) error {
	return change(ctx, s.cfg.Book, func(l *Ledger, now time.Time) (bool, error) {
		s.seen, s.blind = time.Now(), false
		changed, err := fn(l, now)
		if s.cfg.Watch != nil {
			s.cfg.Watch(s.cfg.Jobs, *l, now)
		}
		return changed, err
	})
}

// maxError is how much of an error the ledger keeps.
const maxError = 500

func short(err error) string {
	text := err.Error()
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + "…"
	}
	return text
}
