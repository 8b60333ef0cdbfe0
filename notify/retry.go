package notify

import (
	"math/rand/v2"
	"time"
)

const (
	maxPause      = 2 * time.Hour
	maxRetryAfter = 6 * time.Hour // what a receiver may ask for at most
)

// pause is how long to wait after the given try: first, doubled each time up
// to two hours, one fifth more or less; longer where the receiver asked for it.
func pause(tries int, first, asked time.Duration) time.Duration {
	d := first
	for i := 1; i < tries && d < maxPause; i++ {
		d *= 2
	}
	d = min(d, maxPause)
	d = time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // spreads load, hides nothing
	return max(d, min(asked, maxRetryAfter))
}
