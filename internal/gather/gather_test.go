package gather_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"rootstream/internal/gather"
)

type ask = gather.Ask[int, string]

// reading is one that a test holds until it has seen what was gathered.
type reading struct {
	questions []int
	end       chan struct{}
}

// held makes a group whose readings tell of themselves and wait.
func held(readers, size int) (*gather.Group[int, string], chan reading) {
	begun := make(chan reading, 100)
	return gather.New(readers, size, func(_ context.Context, asks []*ask) {
		r := reading{end: make(chan struct{})}
		for _, a := range asks {
			r.questions = append(r.questions, a.Question)
			a.Answer, a.Err = fmt.Sprint("answer ", a.Question), nil
		}
		begun <- r
		<-r.end
	}), begun
}

func TestWhoAsksDuringAReadingSharesTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, begun := held(1, 100)
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if answer, err := g.Do(t.Context(), i); err != nil || answer != fmt.Sprint("answer ", i) {
					t.Errorf("question %d: %q, %v", i, answer, err)
				}
			})
			synctest.Wait()
		}
		first := <-begun
		if len(first.questions) != 1 {
			t.Errorf("who asks alone waited for others: %v", first.questions)
		}
		if len(begun) != 0 {
			t.Error("more than one reading at a time")
		}
		close(first.end)
		second := <-begun
		if fmt.Sprint(second.questions) != "[1 2 3 4]" {
			t.Errorf("the second reading answers %v", second.questions)
		}
		close(second.end)
		wg.Wait()
		if len(begun) != 0 {
			t.Error("a reading for nobody")
		}
	})
}

func TestReadingsAreBoundedInNumberAndSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, begun := held(2, 3)
		var wg sync.WaitGroup
		for i := range 9 {
			wg.Go(func() { _, _ = g.Do(t.Context(), i) })
			synctest.Wait()
		}
		a, b := <-begun, <-begun
		if len(begun) != 0 {
			t.Error("more than two readings at a time")
		}
		close(a.end)
		if c := <-begun; fmt.Sprint(c.questions) != "[2 3 4]" {
			t.Errorf("the third reading answers %v", c.questions)
		} else {
			close(c.end)
		}
		close(b.end)
		for range 2 {
			close((<-begun).end)
		}
		wg.Wait()
	})
}

func TestWhoGivesUpIsNotReadForAndFailsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, begun := held(1, 100)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = g.Do(t.Context(), 0) })
		synctest.Wait()
		impatient, giveUp := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := g.Do(impatient, 1); !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up got %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if answer, err := g.Do(t.Context(), 2); err != nil || answer != "answer 2" {
				t.Errorf("who stayed got %q, %v", answer, err)
			}
		})
		synctest.Wait()
		giveUp()
		synctest.Wait()
		close((<-begun).end)
		next := <-begun
		if fmt.Sprint(next.questions) != "[2]" {
			t.Errorf("the next reading answers %v", next.questions)
		}
		close(next.end)
		wg.Wait()
	})
}

func TestAReaderThatGivesUpReadsToTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, giveUp := context.WithCancel(t.Context())
		g := gather.New(1, 100, func(reading context.Context, asks []*ask) {
			giveUp()
			asks[0].Err = reading.Err()
		})
		if _, err := g.Do(ctx, 1); err != nil {
			t.Errorf("the reading ended with its reader: %v", err)
		}
	})
}

func TestAReaderThatPanicsRefusesTheOthersAndFreesItsPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun, blow := make(chan struct{}, 3), make(chan struct{})
		g := gather.New(1, 100, func(_ context.Context, asks []*ask) {
			begun <- struct{}{}
			<-blow
			if asks[0].Question < 2 {
				panic("blown")
			}
			asks[0].Err = nil
		})
		panicking := func(question int) {
			defer func() {
				if recover() == nil {
					t.Errorf("the reader of %d did not panic", question)
				}
			}()
			_, _ = g.Do(t.Context(), question)
		}
		var wg sync.WaitGroup
		wg.Go(func() { panicking(0) })
		synctest.Wait()
		wg.Go(func() { panicking(1) })
		synctest.Wait()
		wg.Go(func() {
			if _, err := g.Do(t.Context(), 3); !errors.Is(err, gather.ErrUnread) {
				t.Errorf("who waited for a reader that panicked got %v", err)
			}
		})
		synctest.Wait()
		close(blow)
		wg.Wait()
		if _, err := g.Do(t.Context(), 4); err != nil {
			t.Errorf("the place was not freed: %v", err)
		}
	})
}

func TestEverybodyIsAnswered(t *testing.T) {
	t.Parallel()
	g := gather.New(2, 7, func(_ context.Context, asks []*ask) {
		for _, a := range asks {
			a.Answer, a.Err = fmt.Sprint(a.Question), nil
		}
	})
	var wg sync.WaitGroup
	for worker := range 50 {
		wg.Go(func() {
			for i := range 200 {
				question := worker*1000 + i
				ctx, cancel := context.WithCancel(t.Context())
				if worker%5 == 0 {
					go cancel()
				}
				answer, err := g.Do(ctx, question)
				cancel()
				if err == nil && answer != fmt.Sprint(question) || err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("question %d: %q, %v", question, answer, err)
				}
			}
		})
	}
	wg.Wait()
}
