package user

import (
	"time"

	"github.com/google/uuid"
)

// Role is what an account may do.
type Role string

// The roles; each may do what the one before it may.
const (
	RoleUser     Role = "user"
	RoleOperator Role = "operator"
	RoleAdmin    Role = "admin"
)

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { return r == RoleUser || r == RoleOperator || r == RoleAdmin }

// AtLeast reports whether r may do what o may.
func (r Role) AtLeast(o Role) bool { return r.rank() >= o.rank() && r.Valid() && o.Valid() }

func (r Role) rank() int {
	switch r {
	case RoleAdmin:
		return 2
	case RoleOperator:
		return 1
	case RoleUser:
		return 0
	}
	return -1
}

// User is an account. Times are UTC.
type User struct {
	ID              int64      `json:"-"`
	PublicID        uuid.UUID  `json:"id"`
	Username        string     `json:"username"`
	Email           string     `json:"email"`
	DisplayName     string     `json:"display_name"`
	AvatarURL       string     `json:"avatar_url"`
	Role            Role       `json:"role"`
	IsVerified      bool       `json:"verified"`
	IsActive        bool       `json:"active"`
	IsCaseDuplicate bool       `json:"-"` // an older account has the same name or address but for case
	CreatedAt       time.Time  `json:"created_at"`
	UpdatedAt       time.Time  `json:"updated_at"`
	LastLoginAt     *time.Time `json:"last_login_at"`
}

// columns reads a User from users u, whatever a writer of Phase 24.2 left null.
const columns = `u.id, u.public_id, u.username, u.email, coalesce(u.display_name, '') as display_name,
	coalesce(u.avatar_url, '') as avatar_url, u.role, coalesce(u.is_verified, false) as is_verified,
	coalesce(u.is_active, false) as is_active, u.is_case_duplicate,
	coalesce(u.created_at, u.updated_at, 'epoch') as created_at,
	coalesce(u.updated_at, u.created_at, 'epoch') as updated_at, u.last_login_at`

// inUTC returns u with its times in UTC, however the driver read them.
func (u User) inUTC() User {
	u.CreatedAt, u.UpdatedAt = u.CreatedAt.UTC(), u.UpdatedAt.UTC()
	u.LastLoginAt = utc(u.LastLoginAt)
	return u
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	v := t.UTC()
	return &v
}
