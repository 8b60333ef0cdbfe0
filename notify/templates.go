package notify

import (
	"bytes"
	"embed"
	"fmt"
	"strings"
	"text/template"
	"time"

	"rootstream/errs"
)

// Topics with a built-in text, and the fields of [Data] it uses besides Product.
const (
	TopicVerifyEmail     = "user.verify_email"           // URL, Token or both; ExpiresIn
	TopicRegisterAttempt = "user.register_attempt"       // At
	TopicEmailConfirm    = "user.email_confirm"          // URL, Token or both; ExpiresIn
	TopicEmailAsked      = "user.email_change_requested" // At
	TopicEmailAttempt    = "user.email_attempt"          // At
	TopicEmailChanged    = "user.email_changed"          // At; URL, Token or both; ExpiresIn
	TopicEmailReplaced   = "user.email_replaced"         // At
	TopicPasswordChanged = "user.password_changed"       // At, where
	TopicLockout         = "user.locked"                 // At, Until, where
	TopicNewSignIn       = "session.new_sign_in"         // At, where
	TopicTokenReused     = "session.token_reused"        // At, where
	TopicFactorAdded     = "mfa.factor_added"            // At, Factor, where
	TopicFactorRemoved   = "mfa.factor_removed"          // At, Factor, where
	TopicFactorSuspended = "mfa.factor_suspended"        // At, Factor
	TopicBackupCodeUsed  = "mfa.backup_code_used"        // At, CodesLeft, where
	TopicBackupCodesLow  = "mfa.backup_codes_low"        // CodesLeft
)

// Data fills the built-in texts; "where" is Device, Place and IP, each optional.
// URL and Token are secrets: they are set at sending time and no payload can carry them.
type Data struct {
	Product   string        `json:"product,omitempty"`
	URL       string        `json:"-"`
	Token     string        `json:"-"`
	ExpiresIn time.Duration `json:"-"`
	At        time.Time     `json:"at,omitzero"`
	Until     time.Time     `json:"until,omitzero"`
	Place     string        `json:"place,omitempty"`
	Device    string        `json:"device,omitempty"`
	IP        string        `json:"ip,omitempty"`
	Factor    string        `json:"factor,omitempty"`
	CodesLeft int           `json:"codes_left,omitempty"`
}

// ErrNoText is a topic without a built-in text.
var ErrNoText = errs.New(errs.Unavailable, "no_text", "there is no text for this topic")

//go:embed templates/*.txt templates/where.tmpl
var texts embed.FS

// Compose writes the built-in text of a topic. What users chose themselves,
// such as the name of a device, is cut to one line.
func Compose(topic string, d Data) (Mail, error) {
	raw, err := texts.ReadFile("templates/" + topic + ".txt")
	if err != nil {
		return Mail{}, ErrNoText.WithCause(fmt.Errorf("topic %q", topic))
	}
	footer, err := texts.ReadFile("templates/where.tmpl")
	if err != nil {
		return Mail{}, fmt.Errorf("read text: %w", err)
	}
	t, err := template.New(topic).Option("missingkey=error").
		Funcs(template.FuncMap{"time": humanTime, "duration": humanDuration}).
		Parse(string(footer) + string(raw))
	if err != nil {
		return Mail{}, fmt.Errorf("parse text of %s: %w", topic, err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, d.clean()); err != nil {
		return Mail{}, fmt.Errorf("write text of %s: %w", topic, err)
	}
	head, body, _ := strings.Cut(out.String(), "\n\n")
	return Mail{Subject: strings.TrimPrefix(head, "Subject: "), Text: body}, nil
}

func (d Data) clean() Data {
	if d.Product == "" {
		d.Product = "RootStream"
	}
	for _, s := range []*string{&d.Product, &d.Place, &d.Device, &d.IP, &d.Factor} {
		*s = oneLine(*s, 80)
	}
	for _, s := range []*string{&d.URL, &d.Token} {
		*s = oneLine(*s, 2000)
	}
	return d
}

func humanTime(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") }

func humanDuration(d time.Duration) string {
	unit, n := "minute", int(d.Round(time.Minute)/time.Minute)
	switch {
	case d >= 48*time.Hour:
		unit, n = "day", int(d.Round(time.Hour)/(24*time.Hour))
	case d >= 2*time.Hour:
		unit, n = "hour", int(d.Round(time.Minute)/time.Hour)
	}
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}
