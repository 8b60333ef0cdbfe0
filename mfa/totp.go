package mfa

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // RFC 6238's default; HMAC does not rest on collision resistance
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"time"
)

// The parameters every authenticator app understands.
const (
	digits     = 6
	period     = 30 // seconds of a step
	secretSize = 20 // bytes, RFC 4226 section 4 R6
)

// stepAt is the time step (RFC 6238 section 4.2) t falls into.
func stepAt(t time.Time) int64 {
	s := t.Unix()
	if s < 0 {
		s -= period - 1 // round down, not towards zero
	}
	return s / period
}

// hotp is the value of RFC 4226 section 5.3 for a counter, n digits long.
func hotp(secret []byte, counter int64, n int) string {
	var msg [8]byte
	binary.BigEndian.PutUint64(msg[:], uint64(counter)) //nolint:gosec // RFC 4226 counts modulo 2^64
	mac := hmac.New(sha1.New, secret)
	mac.Write(msg[:])
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0x0f
	code := binary.BigEndian.Uint32(sum[at:at+4]) & 0x7fffffff
	mod := uint32(1)
	for range n {
		mod *= 10
	}
	return fmt.Sprintf("%0*d", n, code%mod)
}

// match is the steps whose code was presented: first to last, which differ
// only if two steps of the window happen to have the same code.
type match struct{ first, last int64 }

// matchTOTP compares code with every step of the window, in constant time and
// without stopping at a hit. Strict leaves out the step to come.
func matchTOTP(secret []byte, code string, now int64, strict bool) (match, bool) {
	var m match
	found := 0
	for _, d := range []int64{-1, 0, 1} {
		step := now + d
		hit := subtle.ConstantTimeCompare([]byte(hotp(secret, step, digits)), []byte(code))
		if strict && d > 0 {
			hit = 0
		}
		m.first = pick(hit&^found, step, m.first)
		m.last = pick(hit, step, m.last)
		found |= hit
	}
	return m, found == 1
}

// pick returns a if use is 1 and b if it is 0, without a branch.
func pick(use int, a, b int64) int64 {
	mask := -int64(use)
	return a&mask | b&^mask
}

// fresh reports whether a match may be accepted after the step used last: a
// code that was good for a used step is spent, whatever else it is good for.
func (m match) fresh(lastUsed int64) bool { return m.first > lastUsed }
