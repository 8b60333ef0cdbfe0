package mfa

import "time"

// What tests of pure parts look at.

const (
	Digits     = digits
	SecretSize = secretSize
)

func HOTP(secret []byte, counter int64, n int) string { return hotp(secret, counter, n) }

func StepAt(t time.Time) int64 { return stepAt(t) }

func MatchTOTP(secret []byte, code string, now int64, strict bool) (first, last int64, ok bool) {
	m, ok := matchTOTP(secret, code, now, strict)
	return m.first, m.last, ok
}

func Fresh(first, last, lastUsed int64) bool { return match{first, last}.fresh(lastUsed) }

func NewBackupCode() string { return newBackupCode() }

func NormalBackupCode(s string) (string, error) { return normalBackupCode(s) }

func NormalTOTP(s string) (string, error) { return normalTOTP(s) }

func OtpauthURI(issuer, account, secret string) string { return otpauthURI(issuer, account, secret) }

func QRSVG(text string) (string, error) { return qrSVG(text) }

func ReadCursor(s string) error { _, err := readCursor(s); return err }
