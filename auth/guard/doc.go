// Package guard slows down whoever guesses. [Backoff] makes those who fail wait
// ever longer, [Turns] lets tries at one key go one after the other, [Windows]
// stands in for the limiter in Redis. Who is counted under which key, and what
// an attempt is, auth decides.
package guard
