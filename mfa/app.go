package mfa

import (
	"encoding/base32"
	"strings"
	"time"

	"rootstream/errs"
)

// CodeAt is the code an authenticator app shows at a time for a secret as
// [Enrollment] gives it. It is for clients, tests and examples.
func CodeAt(base32Secret string, at time.Time) (string, error) {
	text := strings.ToUpper(strings.NewReplacer(" ", "", "-", "", "=", "").Replace(base32Secret))
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(text)
	if err != nil {
		return "", errs.NewInvalid("secret", "must be base32")
	}
	return hotp(key, stepAt(at), digits), nil
}
