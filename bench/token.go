package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
)

// tokenAt is the token of the session with that number: of the form that the
// session room gives out, but of a body that can be computed again.
func tokenAt(n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	body := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("bench"), uint64(n))) //nolint:gosec // a small number
	token := base64.RawURLEncoding.AppendEncode([]byte("sst_"), body[:])
	sum := crc32.ChecksumIEEE(token)
	for i := range 6 {
		token = append(token, alphabet[sum>>(30-6*i)&63])
	}
	return string(token)
}

// tokensFrom makes the tokens from number from on.
func tokensFrom(from, n int) []string {
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = tokenAt(from + i)
	}
	return tokens
}

// stride walks through n numbers in an order that no cache can guess, each once a lap.
type stride struct{ at, step, n int }

func newStride(n, start int) stride {
	step := 7919
	for gcd(step, n) != 1 {
		step++
	}
	return stride{at: start % n, step: step % n, n: n}
}

func (s *stride) next() int {
	s.at += s.step
	if s.at >= s.n {
		s.at -= s.n
	}
	return s.at
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
