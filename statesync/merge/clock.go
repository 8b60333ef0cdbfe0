package merge

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rootstream/errs"
)

// MaxDrift is how far ahead of us another node's clock may be, if a [Clock] is not told otherwise.
const MaxDrift = 500 * time.Millisecond

// ErrDrift refuses a stamp from a clock too far ahead: it would win over everybody until time catches up.
var ErrDrift = errs.New(errs.Conflict, "clock_drift", "another node's clock is too far ahead")

const countBits = 16

// HLC is a moment of a hybrid logical clock: 48 bits of Unix milliseconds, 16 bits that count within one.
// As text and JSON it is a string of decimal digits, since 64 bits do not fit a JSON number everywhere.
type HLC uint64

// At makes the first moment of t's millisecond; times before 1970 are 1970.
func At(t time.Time) HLC {
	return HLC(max(t.UnixMilli(), 0)) << countBits
}

// Time is the wall clock part.
func (h HLC) Time() time.Time {
	return time.UnixMilli(int64(h >> countBits)).UTC()
}

// String is decimal digits.
func (h HLC) String() string { return strconv.FormatUint(uint64(h), 10) }

// MarshalText is String.
func (h HLC) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *HLC) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return fmt.Errorf("read a clock value: %w", err)
	}
	*h = HLC(v)
	return nil
}

// Clock gives moments that only grow, and follows those it sees. It is safe for concurrent use.
type Clock struct {
	now     func() time.Time
	drift   time.Duration
	mu      sync.Mutex
	last    HLC
	refused atomic.Int64
}

// NewClock makes a clock on now (nil means [time.Now]) that refuses moments more than drift ahead (0 means MaxDrift).
func NewClock(now func() time.Time, drift time.Duration) *Clock {
	if now == nil {
		now = time.Now
	}
	if drift == 0 {
		drift = MaxDrift
	}
	return &Clock{now: now, drift: drift}
}

// Now returns a moment after all that were given or seen, also when the wall clock was set back.
func (c *Clock) Now() HLC {
	wall := At(c.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(wall, c.last+1)
	return c.last
}

// See makes later moments greater than h. One that is too far ahead is refused, counted and forgotten.
func (c *Clock) See(h HLC) error {
	if h > At(c.now().Add(c.drift)) {
		c.refused.Add(1)
		return ErrDrift
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, h)
	return nil
}

// Refused is how many moments were too far ahead.
func (c *Clock) Refused() int64 { return c.refused.Load() }

// Stamp orders all changes: by time, then by who made them. Equal stamps are the same change.
type Stamp struct {
	At   HLC       `json:"at"`
	Node uuid.UUID `json:"node"`
}

// Compare is negative if s is older than o, positive if it is newer.
func (s Stamp) Compare(o Stamp) int {
	switch {
	case s.At < o.At:
		return -1
	case s.At > o.At:
		return 1
	}
	return compareID(s.Node, o.Node)
}

func compareID(a, b uuid.UUID) int {
	for i := 0; i < len(a); i += 8 {
		x, y := binary.BigEndian.Uint64(a[i:]), binary.BigEndian.Uint64(b[i:])
		if x < y {
			return -1
		}
		if x > y {
			return 1
		}
	}
	return 0
}
