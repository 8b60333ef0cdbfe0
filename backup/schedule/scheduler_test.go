package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rootstream/backup/schedule"
)

// book is a ledger in memory; its clock is that of the bubble.
type book struct {
	mu   sync.Mutex
	body []byte
	tag  int
	down error
	skew time.Duration
}

func (b *book) Read(context.Context) ([]byte, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tag == 0 {
		return nil, "", b.down
	}
	return b.body, fmt.Sprint(b.tag), b.down
}

func (b *book) Swap(_ context.Context, body []byte, tag string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return b.down
	}
	if tag == "" && b.tag != 0 || tag != "" && tag != fmt.Sprint(b.tag) {
		return schedule.ErrChanged
	}
	b.body, b.tag = body, b.tag+1
	return nil
}

func (b *book) Now(context.Context) (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Add(b.skew).UTC(), b.down
}

func (b *book) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = err
}

// diary notes what happened.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, "; ")
}

func (d *diary) config(b *book, owner string, jobs ...schedule.Job) schedule.Config {
	return schedule.Config{
		Jobs: jobs, Book: b, Owner: owner, Logger: slog.New(slog.DiscardHandler), Look: 3 * time.Minute, Lease: 9 * time.Minute,
		Run: func(_ context.Context, k schedule.Kind) (string, error) {
			d.note("%s", k)
			return "an id", nil
		},
		Alert: func(_ context.Context, a schedule.Alert) error {
			d.note("%s %s", a.Job, a.Problem)
			return nil
		},
	}
}

// start runs a scheduler until the test ends, or until stop is called.
func start(t *testing.T, cfg schedule.Config) (stop func()) {
	t.Helper()
	s, err := schedule.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// pass lets time pass for everybody in the bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestOneOfManyProcessesRunsWhatIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := &book{skew: 3 * time.Hour}, &diary{}
		jobs := []schedule.Job{job(t, schedule.Full, "0 3 * * *"), job(t, schedule.Incremental, "0 * * * *"), job(t, schedule.Prune, "30 4 * * *")}
		var stops []func()
		for i := range 3 {
			stops = append(stops, start(t, d.config(b, fmt.Sprint("host", i), jobs...)))
		}
		pass(24*time.Hour + 5*time.Minute)
		for _, stop := range stops {
			stop()
		}
		got := d.String()
		if full, incr, prune := strings.Count(got, "full"), strings.Count(got, "incremental"), strings.Count(got, "prune"); full != 1 || incr != 23 || prune != 1 {
			t.Errorf("%d full, %d incremental (a full one is better at 3), %d prune: %s", full, incr, prune, got)
		}
	})
}

func TestTheFirstBackupIsTakenAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := &book{}, &diary{}
		cfg := d.config(b, "a", job(t, schedule.Incremental, "0 * * * *"), job(t, schedule.Full, "0 3 * * SUN"))
		cfg.Empty = func(context.Context) (bool, error) { return true, nil }
		stop := start(t, cfg)
		pass(time.Minute)
		stop()
		if d.String() != "full" {
			t.Errorf("%q", d)
		}
	})
}

func TestAProcessThatDiesInARunIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := &book{}, &diary{}
		j := job(t, schedule.Full, "0 3 * * *")
		hung := d.config(b, "hung", j)
		release := make(chan struct{})
		hung.Run = func(ctx context.Context, _ schedule.Kind) (string, error) {
			d.note("hung begins")
			b.fail(errors.New("unplugged")) // it cannot renew what it claimed
			<-ctx.Done()
			d.note("hung ends: %v", context.Cause(ctx))
			<-release
			return "too late", nil
		}
		s, err := schedule.New(hung)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				if ran, _ := s.Pass(ctx); ran {
					return
				}
				<-time.After(time.Minute)
			}
		}()
		pass(27*time.Hour + 5*time.Minute) // the bubble begins at midnight
		b.fail(nil)
		stop := start(t, d.config(b, "heir", j))
		pass(time.Hour)
		close(release)
		<-done
		stop()
		if got := d.String(); !strings.HasPrefix(got, "hung begins; ") || !strings.Contains(got, "full") {
			t.Errorf("%q", got)
		}
	})
}

func TestPeopleAreToldOfFailureAndOfRecoveryOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := &book{}, &diary{}
		j := job(t, schedule.Full, "0 3 * * *")
		var works atomic.Bool
		var stops []func()
		for i := range 3 {
			cfg := d.config(b, fmt.Sprint("host", i), j)
			cfg.Run = func(context.Context, schedule.Kind) (string, error) {
				if !works.Load() {
					return "", errors.New("the disk is full")
				}
				return "", nil
			}
			stops = append(stops, start(t, cfg))
		}
		pass(20 * time.Hour) // 3:00 and three more tries, then overdue at 9:00
		works.Store(true)
		pass(24 * time.Hour)
		for _, stop := range stops {
			stop()
		}
		want := fmt.Sprintf("%[1]s failed; %[1]s overdue; %[1]s recovered", j.Name())
		if d.String() != want {
			t.Errorf("%q, want %q", d, want)
		}
	})
}

func TestPeopleAreToldWhenNothingRunsAtAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := &book{}, &diary{}
		j := job(t, schedule.Full, "0 3 * * *")
		busy := d.config(b, "busy", j)
		block := make(chan struct{})
		busy.Run = func(ctx context.Context, _ schedule.Kind) (string, error) {
			select {
			case <-block:
			case <-ctx.Done():
			}
			return "", nil
		}
		stops := []func(){start(t, busy)}
		pass(4 * time.Hour)
		stops = append(stops, start(t, d.config(b, "other", j)))
		pass(6 * time.Hour)
		if want := j.Name() + " overdue"; d.String() != want {
			t.Errorf("%q, want %q: a run that never ends is no success", d, want)
		}
		close(block)
		pass(time.Hour)
		for _, stop := range stops {
			stop()
		}
	})
}

func TestPeopleAreToldWhenTheLedgerIsOutOfReach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := &book{}, &diary{}
		stop := start(t, d.config(b, "a", job(t, schedule.Full, "0 3 1 1 *")))
		pass(time.Minute)
		b.fail(errors.New("no route to host"))
		pass(3 * time.Hour)
		stop()
		if d.String() != "the schedule overdue" {
			t.Errorf("%q", d)
		}
	})
}

func TestAnAlertThatCannotBeSentIsSentLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := &book{}, &diary{}
		cfg := d.config(b, "a", job(t, schedule.Full, "0 3 * * *"))
		cfg.Run = func(context.Context, schedule.Kind) (string, error) { return "", errors.New("no") }
		began := time.Now()
		cfg.Alert = func(_ context.Context, a schedule.Alert) error {
			if time.Since(began) < 4*time.Hour {
				return errors.New("the mail server is down")
			}
			d.note("%s", a.Problem)
			return nil
		}
		stop := start(t, cfg)
		pass(5 * time.Hour)
		stop()
		if d.String() != "failed" {
			t.Errorf("%q", d)
		}
	})
}

func TestADamagedLedgerIsNamed(t *testing.T) {
	t.Parallel()
	b, d := &book{body: []byte(`{"jobs":`), tag: 1}, &diary{}
	s, err := schedule.New(d.config(b, "a", job(t, schedule.Full, "0 3 * * *")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pass(t.Context()); !errors.Is(err, schedule.ErrLedger) {
		t.Errorf("Pass = %v", err)
	}
}
