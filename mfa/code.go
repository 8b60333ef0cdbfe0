package mfa

import (
	"context"
	"crypto/rand"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"

	"rootstream/errs"
)

const (
	backupCount  = 10
	backupLength = 10 // characters of 5 bits
	saltSize     = 16
)

// crockford is the alphabet of Douglas Crockford's base 32: no I, L, O, U.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// newBackupCode returns 50 random bits as XXXXX-XXXXX.
func newBackupCode() string {
	var random [backupLength]byte
	_, _ = rand.Read(random[:]) // never fails
	var b strings.Builder
	for i, r := range random {
		if i == backupLength/2 {
			b.WriteByte('-')
		}
		b.WriteByte(crockford[r&31]) // 256 is a multiple of 32: no bias
	}
	return b.String()
}

// normalBackupCode returns the ten characters of a code as they were hashed,
// forgiving case, dashes, spaces and look-alike letters.
func normalBackupCode(s string) (string, error) {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '-' || r == ' ':
			continue
		case r >= 'a' && r <= 'z':
			r -= 'a' - 'A'
		}
		switch r {
		case 'I', 'L':
			r = '1'
		case 'O':
			r = '0'
		}
		if r > 'Z' || !strings.ContainsRune(crockford, r) || b.Len() == backupLength {
			return "", errBackupShape()
		}
		b.WriteRune(r)
	}
	if b.Len() != backupLength {
		return "", errBackupShape()
	}
	return b.String(), nil
}

// normalTOTP returns the six digits of a code, forgiving the spaces and dashes apps show.
func normalTOTP(s string) (string, error) {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '-' || r == ' ':
			continue
		case r < '0' || r > '9' || b.Len() == digits:
			return "", errTOTPShape()
		}
		b.WriteRune(r)
	}
	if b.Len() != digits {
		return "", errTOTPShape()
	}
	return b.String(), nil
}

func errBackupShape() error {
	return errs.NewInvalid("code", "must be a backup code: ten letters and digits, like 4F7KQ-9XW2C")
}

func errTOTPShape() error {
	return errs.NewInvalid("code", "must be the six digits the authenticator shows")
}

// Argon2id with the parameters passwords use: OWASP's 19 MiB, 2 passes, 1 lane.
const (
	argonMemory = 19 << 10 // KiB
	argonTime   = 2
	argonLanes  = 1
	argonLength = 32
)

// newDerive returns an Argon2id that runs on all but one core at a time and
// lets the others wait, so that it cannot take the memory or the machine.
func newDerive() func(ctx context.Context, password, salt []byte) ([]byte, error) {
	turns := make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))
	return func(ctx context.Context, password, salt []byte) ([]byte, error) {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return nil, ErrBusy.WithCause(ctx.Err())
		}
		defer func() { <-turns }()
		return argon2.IDKey(password, salt, argonTime, argonMemory, argonLanes, argonLength), nil
	}
}
