package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"rootstream/internal/wait"
)

func TestForEndsWithItsTimeOrItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if err := wait.For(t.Context(), time.Hour); err != nil || time.Since(begun) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun = time.Now()
		if err := wait.For(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

func TestWakeNeverBlocksAndIsHeardOnce(t *testing.T) {
	t.Parallel()
	ch := make(chan struct{}, 1)
	wait.Wake(ch)
	wait.Wake(ch)
	<-ch
	select {
	case <-ch:
		t.Error("woken twice")
	default:
	}
}
