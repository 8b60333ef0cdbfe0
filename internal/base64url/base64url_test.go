package base64url_test

import (
	"testing"

	"rootstream/internal/base64url"
)

func FuzzATextThatIsReadIsTheOneWritten(f *testing.F) {
	for _, text := range []string{"", "AA", "_-8", "AB", "A A", "AA==", "+/8", "AAAA\n", "AA\r\nAA", "\nAAAA"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := base64url.Decode(text); err == nil && base64url.Encode(b) != text {
			t.Errorf("%q was read, its bytes are %q", text, base64url.Encode(b))
		}
		if b, err := base64url.Decode(base64url.Encode([]byte(text))); err != nil || string(b) != text {
			t.Errorf("%q became %q, %v", text, b, err)
		}
	})
}
