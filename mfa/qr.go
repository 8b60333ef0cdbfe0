package mfa

import (
	"encoding/base32"
	"fmt"
	"image/color"
	"net/url"
	"strings"

	"github.com/boombuler/barcode/qr"
)

const (
	quietZone  = 4  // modules around the symbol, ISO/IEC 18004 section 6.3.8
	labelRunes = 64 // of an account in the URI: more makes the symbol hard to scan
)

// encodeSecret is how people and apps read a TOTP secret: base 32 without padding.
func encodeSecret(secret []byte) string {
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)
}

// otpauthURI is the key as authenticator apps take it in (Key URI Format).
func otpauthURI(issuer, account, secret string) string {
	if r := []rune(account); len(r) > labelRunes {
		account = string(r[:labelRunes])
	}
	return "otpauth://totp/" + escape(issuer) + ":" + escape(account) + "?secret=" + secret +
		"&issuer=" + escape(issuer) + "&algorithm=SHA1&digits=6&period=30"
}

// escape percent-encodes everything but unreserved characters; apps do not read + as a space.
func escape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// qrSVG draws text as a QR code: one path of black runs on white, nothing that
// could run or load.
func qrSVG(text string) (string, error) {
	code, err := qr.Encode(text, qr.M, qr.Unicode)
	if err != nil {
		return "", fmt.Errorf("draw a QR code: %w", err)
	}
	size := code.Bounds().Dx()
	var path strings.Builder
	for y := range size {
		for x := 0; x < size; {
			run := 0
			for x+run < size && code.At(x+run, y) == color.Black {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x+quietZone, y+quietZone, run, run)
			}
			x += max(run, 1)
		}
	}
	full := size + 2*quietZone
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[1]d" shape-rendering="crispEdges" role="img" aria-label="QR code">`+
		`<rect width="%[1]d" height="%[1]d" fill="#fff"/><path d="%[2]s" fill="#000"/></svg>`, full, path.String()), nil
}
