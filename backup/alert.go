package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"rootstream/backup/schedule"
	"rootstream/notify"
)

// TopicAlert is what mails and webhooks about backups are called.
const TopicAlert = "backup.alert"

// Alerts tells people about backups that failed or did not happen: always in
// the log, and by mail and webhook, at once and without the database.
type Alerts struct {
	Repository string   // named in what people read
	Mail       []string // addresses
	Webhooks   []string // names of endpoints
	Send       *notify.Direct
	Logger     *slog.Logger
}

// Tell tells everybody. It fails if not one of those who should know could be told.
func (a Alerts) Tell(ctx context.Context, alert schedule.Alert) error {
	level := slog.LevelError
	if alert.Problem == schedule.Recovered {
		level = slog.LevelInfo
	}
	a.Logger.Log(ctx, level, "backup alert", "problem", string(alert.Problem), "job", alert.Job,
		"planned", alert.Planned, "last_success", alert.Success, "err", alert.Error)
	var failed []error
	subject, text := a.words(alert)
	for _, to := range a.Mail {
		if err := a.Send.Mail(ctx, TopicAlert, notify.Mail{To: to, Subject: subject, Text: text}); err != nil {
			failed = append(failed, fmt.Errorf("mail to %s: %w", to, err))
		}
	}
	payload := struct {
		schedule.Alert
		Repository string `json:"repository"`
		Text       string `json:"text"`
	}{alert, a.Repository, subject}
	for _, hook := range a.Webhooks {
		if err := a.Send.Webhook(ctx, TopicAlert, hook, payload); err != nil {
			failed = append(failed, err)
		}
	}
	err := errors.Join(failed...)
	if err != nil && len(failed) < len(a.Mail)+len(a.Webhooks) { // somebody knows
		a.Logger.WarnContext(ctx, "not everybody could be told", "err", err)
		return nil
	}
	return err
}

// words says an alert for people.
func (a Alerts) words(alert schedule.Alert) (subject, text string) {
	planned := alert.Planned.UTC().Format("2 January 2006, 15:04 UTC")
	what := map[schedule.Problem]string{
		schedule.Failed:    "failed",
		schedule.Overdue:   "has not succeeded in time",
		schedule.Recovered: "works again",
	}[alert.Problem]
	subject = fmt.Sprintf("Backup: %s %s", alert.Job, what)
	var b strings.Builder
	fmt.Fprintf(&b, "The job %q of the repository %s %s.\n\nPlanned: %s\n", alert.Job, a.Repository, what, planned)
	if alert.Success.IsZero() {
		b.WriteString("Last success: never\n")
	} else {
		fmt.Fprintf(&b, "Last success: %s\n", alert.Success.UTC().Format("2 January 2006, 15:04 UTC"))
	}
	if alert.Error != "" {
		fmt.Fprintf(&b, "Error: %s\n", alert.Error)
	}
	if alert.Problem != schedule.Recovered {
		b.WriteString("\nLook at it with: rootstream backup schedule list, rootstream backup list, rootstream doctor\n")
	}
	return subject, b.String()
}
