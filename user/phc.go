package user

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Limits on what a stored hash may ask for: whoever can write one must not be
// able to stop the process with it, nor to tell its account by the time far off.
const (
	maxMemoryKiB   = 128 << 10
	maxTime        = 4
	maxParallelism = 4
	maxBcryptCost  = 13
	maxEncoded     = 255 // the column's width
	unusableHash   = "!" // an account that has no password yet
)

var (
	bcryptForm = regexp.MustCompile(`^\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}$`)
	b64        = base64.RawStdEncoding.Strict() //nolint:gochecknoglobals // a constant in all but syntax
)

// Argon2 is the cost of an Argon2 hash.
type Argon2 struct {
	MemoryKiB   uint32 // m
	Time        uint32 // t, passes over the memory
	Parallelism uint8  // p, lanes
}

func (a Argon2) within() bool {
	return a.Time >= 1 && a.Time <= maxTime && a.Parallelism >= 1 && a.Parallelism <= maxParallelism &&
		a.MemoryKiB >= 8*uint32(a.Parallelism) && a.MemoryKiB <= maxMemoryKiB
}

// parsedHash is a stored hash taken apart. kind is argon2id, argon2i or bcrypt.
type parsedHash struct {
	kind      string
	cost      Argon2 // Argon2 kinds
	salt, key []byte // Argon2 kinds
	encoded   string // bcrypt, which its library reads itself
}

// CheckHash says whether a hash from elsewhere can be verified here: Argon2id
// or Argon2i as a PHC string of version 19, or bcrypt ($2a$, $2b$, $2y$).
func CheckHash(encoded string) error {
	_, err := parseHash(encoded)
	return err
}

func parseHash(encoded string) (parsedHash, error) {
	switch {
	case len(encoded) > maxEncoded:
		return parsedHash{}, ErrHashFormat
	case strings.HasPrefix(encoded, "$argon2"):
		return parsePHC(encoded)
	case strings.HasPrefix(encoded, "$2"):
		m := bcryptForm.FindStringSubmatch(encoded)
		if m == nil {
			return parsedHash{}, ErrHashFormat
		}
		if cost, _ := strconv.Atoi(m[1]); cost < 4 || cost > maxBcryptCost {
			return parsedHash{}, ErrHashLimits
		}
		return parsedHash{kind: "bcrypt", encoded: encoded}, nil
	}
	return parsedHash{}, ErrHashFormat
}

// parsePHC reads $argon2id$v=19$m=19456,t=2,p=1$salt$key and nothing looser:
// what it accepts, formatPHC writes again byte for byte.
func parsePHC(encoded string) (parsedHash, error) {
	f := strings.Split(encoded, "$")
	if len(f) != 6 || f[0] != "" || (f[1] != "argon2id" && f[1] != "argon2i") || f[2] != "v=19" {
		return parsedHash{}, ErrHashFormat
	}
	h := parsedHash{kind: f[1]}
	params := strings.Split(f[3], ",")
	if len(params) != 3 {
		return parsedHash{}, ErrHashFormat
	}
	var n [3]uint64
	for i, name := range [...]string{"m=", "t=", "p="} {
		text, ok := strings.CutPrefix(params[i], name)
		v, err := strconv.ParseUint(text, 10, 32)
		if !ok || err != nil || strconv.FormatUint(v, 10) != text {
			return parsedHash{}, ErrHashFormat
		}
		n[i] = v
	}
	var errSalt, errKey error
	h.salt, errSalt = b64.DecodeString(f[4])
	h.key, errKey = b64.DecodeString(f[5])
	if errSalt != nil || errKey != nil || strings.ContainsAny(f[4]+f[5], "\r\n") {
		return parsedHash{}, ErrHashFormat
	}
	if len(h.salt) < 8 || len(h.salt) > 64 || len(h.key) < 16 || len(h.key) > 64 || n[2] > maxParallelism {
		return parsedHash{}, ErrHashLimits
	}
	h.cost = Argon2{MemoryKiB: uint32(n[0]), Time: uint32(n[1]), Parallelism: uint8(n[2])} //nolint:gosec // 32 bits by ParseUint, p ≤ 4
	if !h.cost.within() {
		return parsedHash{}, ErrHashLimits
	}
	return h, nil
}

func formatPHC(h parsedHash) string {
	return fmt.Sprintf("$%s$v=19$m=%d,t=%d,p=%d$%s$%s", h.kind, h.cost.MemoryKiB, h.cost.Time, h.cost.Parallelism,
		b64.EncodeToString(h.salt), b64.EncodeToString(h.key))
}
