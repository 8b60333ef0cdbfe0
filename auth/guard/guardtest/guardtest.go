// Package guardtest says what guard lets through, for the tests of those who use it.
package guardtest

import "time"

// Permitted is how many guesses may be judged in a time: the free ones, and one after each wait.
func Permitted(free int, elapsed time.Duration) int {
	for wait := 2 * time.Second; elapsed >= wait; wait *= 2 {
		free, elapsed = free+1, elapsed-wait
	}
	return free
}
