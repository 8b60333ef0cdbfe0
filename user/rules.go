package user

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"rootstream/errs"
)

const (
	floorPassword    = 8   // NIST SP 800-63B-4, 3.1.1.2: never fewer
	maxPassword      = 256 // runes
	maxPasswordBytes = 1024
)

// RulesConfig says how long passwords must be. The zero value is the default.
type RulesConfig struct {
	MinPassword           int // characters where the password stands alone; 0 means 15
	MinPasswordWithFactor int // characters where a second factor is required; 0 means 8
}

func (c RulesConfig) withDefaults() RulesConfig {
	if c.MinPassword == 0 {
		c.MinPassword = 15
	}
	if c.MinPasswordWithFactor == 0 {
		c.MinPasswordWithFactor = floorPassword
	}
	return c
}

func (c RulesConfig) validate() error {
	var f errs.Fields
	if c.MinPassword < floorPassword || c.MinPassword > 64 {
		f.Add("min_password", "must be from 8 to 64")
	}
	if c.MinPasswordWithFactor < floorPassword || c.MinPasswordWithFactor > c.MinPassword {
		f.Add("min_password_with_factor", "must be from 8 to min_password")
	}
	return f.Err()
}

// Rules says what may be chosen as name, address and password. It is safe for
// concurrent use.
//
// Passwords follow NIST SP 800-63B-4: length is what counts, any character but
// control characters is welcome, nothing is cut off, and what everybody
// chooses is refused.
type Rules struct {
	cfg    RulesConfig
	common *commonList
}

// NewRules reads the list of common passwords.
func NewRules(cfg RulesConfig) (*Rules, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Rules{cfg: cfg, common: newCommonList()}, nil
}

// Registration is what somebody asks for who wants an account.
type Registration struct {
	Username    string
	Email       string
	Password    string
	DisplayName string
	AvatarURL   string

	FactorRequired bool // the account cannot be used without a second factor
}

// Normalize returns r as it would be stored.
func (r Registration) Normalize() Registration {
	r.Email = NormalizeEmail(r.Email)
	r.DisplayName = NormalizeDisplayName(r.DisplayName)
	return r
}

// Registration returns every fault of in, by field, or nil.
func (r *Rules) Registration(in Registration) error {
	in = in.Normalize()
	f := checkAccount(in.Username, in.Email, in.DisplayName, in.AvatarURL)
	note(&f, "password", r.passwordFault(in.Password, in.FactorRequired, in.Username, in.Email))
	return f.Err()
}

// Password returns the fault of a new password for u, or nil.
func (r *Rules) Password(password string, u User, factorRequired bool) error {
	if fault := r.passwordFault(password, factorRequired, u.Username, u.Email); fault != "" {
		return errs.NewInvalid("password", fault)
	}
	return nil
}

func checkAccount(username, email, displayName, avatarURL string) errs.Fields {
	var f errs.Fields
	note(&f, "username", CheckUsername(username))
	note(&f, "email", CheckEmail(email))
	note(&f, "display_name", CheckDisplayName(displayName))
	note(&f, "avatar_url", CheckAvatarURL(avatarURL))
	return f
}

func (r *Rules) passwordFault(password string, factorRequired bool, username, email string) string {
	least := r.cfg.MinPassword
	if factorRequired {
		least = r.cfg.MinPasswordWithFactor
	}
	if len(password) > maxPasswordBytes {
		return fmt.Sprintf("must be at most %d characters", maxPassword)
	}
	prepared := preparePassword(password)
	switch n := utf8.RuneCountInString(prepared); {
	case n < least:
		return fmt.Sprintf("must be at least %d characters; a few words in a row do well", least)
	case n > maxPassword:
		return fmt.Sprintf("must be at most %d characters", maxPassword)
	}
	for _, c := range prepared {
		if unicode.IsControl(c) || c == utf8.RuneError {
			return "must hold no control characters and be valid UTF-8"
		}
	}
	if r.common.weak(prepared) {
		return "is among the first that attackers try; choose something less common"
	}
	local, _, _ := strings.Cut(email, "@")
	if r.leansOn(prepared, email, username, local) {
		return fmt.Sprintf("must hold at least %d uncommon characters beside your user name and e-mail address", floorPassword)
	}
	return ""
}

// leansOn reports whether password, without the words anybody can know about
// its owner, is too little to stand alone.
func (r *Rules) leansOn(password string, known ...string) bool {
	rest := strings.ToLower(password)
	for _, k := range known {
		if len(k) >= 3 {
			rest = strings.ReplaceAll(rest, strings.ToLower(k), "")
		}
	}
	if len(rest) == len(strings.ToLower(password)) {
		return false
	}
	return utf8.RuneCountInString(rest) < floorPassword || r.common.weak(rest)
}

// preparePassword gives what is typed differently but looks the same one form:
// composed (NFC), with plain blanks (OpaqueString, RFC 8265, 4.2). Compatibility
// forms stay apart, since folding them (NFKC) would throw choices away.
func preparePassword(password string) string {
	return strings.Map(plainSpace, norm.NFC.String(password))
}
