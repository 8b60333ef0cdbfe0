package session

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Role is what an account may do.
type Role uint8

// The roles, each includes those before it.
const (
	RoleUser Role = iota
	RoleOperator
	RoleAdmin
)

var roleNames = [...]string{RoleUser: "user", RoleOperator: "operator", RoleAdmin: "admin"} //nolint:gochecknoglobals // a constant table

// String is the role's name as the database has it.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("role %d", r)
}

// MarshalText is the role's name.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// roleOf reads a role's name; one we do not know may do the least.
func roleOf(name string) Role {
	for r, n := range roleNames {
		if n == name {
			return Role(r)
		}
	}
	return RoleUser
}

// DeviceMatch says whether a token came from where its session was made.
type DeviceMatch uint8

// The answers. Changed is a signal, never a reason to refuse.
const (
	DeviceUnknown DeviceMatch = iota // nothing was given to compare, or nothing is on record
	DeviceSame
	DeviceChanged
)

// String is what the API answers: what was not compared contradicts nothing.
func (d DeviceMatch) String() string {
	if d == DeviceChanged {
		return "changed"
	}
	return "match"
}

// View is what a valid token stands for. It holds no pointers and no token.
// Times are microseconds since 1970 on the database's clock, 0 for never.
type View struct {
	SessionID    uuid.UUID
	UserID       uuid.UUID
	DBSessionID  int64
	DBUserID     int64
	Version      int64  // grows with every change
	AuthAt       int64  // when the password (or its like) was last proven
	MFAAt        int64  // when the second factor was last proven
	CreatedAt    int64  // when the session began
	ExpiresAt    int64  // when this token ends whatever happens
	LastActivity int64  // as last written down
	FilledAt     int64  // not later than the reading of the database behind this view
	DeviceHash   uint64 // of the device id, 0 if none is on record
	PrintHash    uint64 // of the device's fingerprint, 0 if none is on record
	IdleSeconds  uint32 // 0 means that doing nothing does not end the session
	Generation   int32  // how often the token was replaced
	Role         Role
	AAL          uint8
	Verified     bool // the account's e-mail address is
	Remembered   bool
	Device       DeviceMatch // the answer to a ClientHint
}

// IdleExpiresAt is when the session ends if nothing is heard, as far as this view knows; 0 for never. As activity may
// go unrecorded for a while, that while is spared.
func (v *View) IdleExpiresAt() int64 {
	if v.IdleSeconds == 0 {
		return 0
	}
	return v.LastActivity + int64(v.IdleSeconds)*1e6 + v.coalesce()
}

func (v *View) expired(now int64) bool { return now >= v.ExpiresAt }

func (v *View) idle(now int64) bool {
	at := v.IdleExpiresAt()
	return at != 0 && now >= at
}

// FreshMFA reports whether the second factor was proven within the window.
func (v *View) FreshMFA(now time.Time, window time.Duration) bool {
	return v.AAL >= 2 && v.MFAAt != 0 && now.UnixMicro()-v.MFAAt <= window.Microseconds()
}

// Time is one of the view's times; the zero time for 0.
func Time(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// A view in Redis: kind, version and layout come first and never move, since the
// scripts read them; the authentication code comes last.
const (
	kindView      = 'V'
	kindTombstone = 'T'
	layout        = 1

	headLen = 1 + 8 + 1
	viewLen = headLen + 2*16 + 2*8 + 6*8 + 2*8 + 2*4 + 3
	macLen  = 32
)

// encode writes all of v but Device, which belongs to one request.
func (v *View) encode(b []byte) []byte {
	b = append(b, kindView)
	b = binary.BigEndian.AppendUint64(b, uint64(v.Version)) //nolint:gosec // the bits are what counts
	b = append(b, layout)
	b = append(b, v.SessionID[:]...)
	b = append(b, v.UserID[:]...)
	for _, n := range [...]int64{
		v.DBSessionID, v.DBUserID, v.AuthAt, v.MFAAt, v.CreatedAt, v.ExpiresAt, v.LastActivity, v.FilledAt,
		int64(v.DeviceHash), int64(v.PrintHash), //nolint:gosec // the bits are what counts
	} {
		b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // the bits are what counts
	}
	b = binary.BigEndian.AppendUint32(b, v.IdleSeconds)
	b = binary.BigEndian.AppendUint32(b, uint32(v.Generation)) //nolint:gosec // the bits are what counts
	var flags byte
	if v.Verified {
		flags |= 1
	}
	if v.Remembered {
		flags |= 2
	}
	return append(b, byte(v.Role), v.AAL, flags)
}

// decode reads what encode wrote. Anything else is refused.
func decode(b []byte) (v View, ok bool) {
	if len(b) != viewLen || b[0] != kindView || b[headLen-1] != layout {
		return View{}, false
	}
	v.Version = int64(binary.BigEndian.Uint64(b[1:])) //nolint:gosec // the bits are what counts
	b = b[headLen:]
	b = b[copy(v.SessionID[:], b):]
	b = b[copy(v.UserID[:], b):]
	for _, n := range [...]*int64{
		&v.DBSessionID, &v.DBUserID, &v.AuthAt, &v.MFAAt, &v.CreatedAt, &v.ExpiresAt, &v.LastActivity, &v.FilledAt,
	} {
		*n = int64(binary.BigEndian.Uint64(b)) //nolint:gosec // the bits are what counts
		b = b[8:]
	}
	v.DeviceHash, v.PrintHash = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	v.IdleSeconds = binary.BigEndian.Uint32(b[16:])
	v.Generation = int32(binary.BigEndian.Uint32(b[20:])) //nolint:gosec // the bits are what counts
	v.Role, v.AAL = Role(b[24]), b[25]
	flags := b[26]
	if flags > 3 || int(v.Role) >= len(roleNames) || v.AAL < 1 || v.AAL > 2 {
		return View{}, false
	}
	v.Verified, v.Remembered = flags&1 != 0, flags&2 != 0
	return v, true
}

// tombstone says that nothing of version or older may be cached.
func tombstone(version int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kindTombstone}, uint64(version)) //nolint:gosec // the bits are what counts
}
