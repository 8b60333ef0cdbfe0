package notify

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"unicode"

	gomail "github.com/wneessen/go-mail"

	"rootstream/errs"
)

// Mail is a rendered mail.
type Mail struct {
	To      string // address; empty means the message's target
	Subject string
	Text    string // plain text
}

// Errors of mail. A mail that breaks a rule or is refused for good is given up.
var (
	ErrBadMail  = errs.New(errs.Invalid, "bad_mail", "the mail cannot be sent as it is")
	ErrRejected = errs.New(errs.Gone, "mail_rejected", "the mail server refuses this recipient for good")
	ErrMail     = errs.New(errs.Unavailable, "mail_unavailable", "the mail could not be handed over")
)

// mailer takes a rendered mail off our hands.
type mailer interface {
	send(ctx context.Context, it item, m Mail) error
}

// newMailer returns the configured mailer, nil where there is none.
func newMailer(cfg MailConfig) (mailer, error) {
	if cfg.Dir == "" && cfg.SMTP.Host == "" {
		return nil, nil //nolint:nilnil // mail is off
	}
	from, err := parseAddress(cfg.From)
	if err != nil {
		return nil, fmt.Errorf("mail sender: %w", err)
	}
	if cfg.Dir != "" {
		return newFolder(cfg.Dir, from)
	}
	return newSMTP(cfg.SMTP, from)
}

// parseAddress reads one address and refuses whatever could end a header line.
func parseAddress(s string) (*mail.Address, error) {
	if strings.ContainsFunc(s, unicode.IsControl) {
		return nil, errors.New("the address holds a control character")
	}
	a, err := mail.ParseAddress(s)
	if err != nil {
		return nil, fmt.Errorf("the address cannot be read: %w", errors.Unwrap(err))
	}
	return a, nil
}

// compose builds the message. Its id depends on the outbox row alone, so that a repeat can be recognised.
func compose(from *mail.Address, it item, m Mail, enc gomail.Encoding) (*gomail.Msg, error) {
	to, err := parseAddress(m.To)
	if err != nil {
		return nil, ErrBadMail.WithCause(err)
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent(), gomail.WithEncoding(enc))
	msg.FromMailAddress(from)
	msg.ToMailAddress(to)
	msg.Subject(oneLine(m.Subject, 200))
	msg.SetMessageIDWithValue(it.id.String() + "@" + domain(from))
	msg.SetDateWithValue(it.createdAt)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no vacation notices, please
	text := strings.ReplaceAll(m.Text, "\r\n", "\n")
	msg.SetBodyString(gomail.TypeTextPlain, strings.ReplaceAll(text, "\n", "\r\n"))
	return msg, nil
}

func domain(a *mail.Address) string {
	_, d, _ := strings.Cut(a.Address[strings.LastIndexByte(a.Address, '@'):], "@")
	return d
}

// oneLine makes text of unknown origin fit for a header or a line of a mail.
func oneLine(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > limit {
		s = string(r[:limit]) + "…"
	}
	return s
}
