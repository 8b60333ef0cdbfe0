package config

import (
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rootstream/backup"
	"rootstream/backup/schedule"
	"rootstream/errs"
	"rootstream/secret"
)

// Backup is where backups go, how they are taken and how long they are kept.
type Backup struct {
	Repo           string          `yaml:"repo" doc:"Repository of the backups: file:///folder or s3://bucket/prefix. Empty: no backups."`
	KeyFile        string          `yaml:"key_file" doc:"File with at least 32 bytes that opens the repository. Keep a copy elsewhere: without it nothing can be restored."`
	PassphraseFile string          `yaml:"passphrase_file" doc:"The same with a passphrase, which takes a second to try. Only one of the two."`
	DSN            secret.Secret   `yaml:"dsn" doc:"Address of the database as a role that may take backups (superuser, or pg_read_all_settings, EXECUTE on the backup functions and REPLICATION). Empty: postgres.dsn."`
	PGData         string          `yaml:"pgdata" doc:"Data folder of that server on this machine. Empty: the server sends its files over the replication protocol, from any machine."`
	Compression    string          `yaml:"compression" default:"zstd" doc:"zstd, s2 (faster, larger) or none."`
	Level          int             `yaml:"compression_level" default:"1" doc:"Level of zstd, 1 to 4 in speed classes: fastest to best."`
	Workers        int             `yaml:"workers" default:"0" doc:"Files that are read at once; 0: as many as there are processors."`
	Lease          time.Duration   `yaml:"lease" default:"1m" doc:"How long a backup or a deletion may give no sign of life before others take it for dead. Longer where the repository hangs at times."`
	RateMiB        int             `yaml:"rate_mib" default:"0" doc:"Most MiB a second that a backup sends to the repository; 0: no limit."`
	Receive        bool            `yaml:"receive" default:"true" doc:"Whether rootstream node streams the write-ahead log into the repository as it is written."`
	Slot           string          `yaml:"slot" default:"rootstream_wal" doc:"Replication slot of that stream: the server keeps what the repository does not have yet."`
	Spool          string          `yaml:"spool" doc:"Folder for write-ahead log on its way to the repository. Empty: a folder beside the data folder."`
	Acknowledge    string          `yaml:"acknowledge" default:"spool" doc:"When the server hears that its write-ahead log is safe: once it is on disk in the spool, or only once it is in the repository. A synchronous standby named like the slot makes commits wait for that."`
	S3             BackupS3        `yaml:"s3"`
	Retention      BackupRetention `yaml:"retention"`
	Schedule       []BackupJob     `yaml:"schedule"`
	AlertMail      []string        `yaml:"alert_mail" doc:"Addresses that are told of backups that failed or did not happen."`
	AlertWebhooks  []string        `yaml:"alert_webhooks" doc:"URLs of webhooks (each must be one of webhooks) that are told the same as backup.alert."`
}

// BackupS3 says how to reach s3:// repositories.
type BackupS3 struct {
	Endpoint  string        `yaml:"endpoint" doc:"URL of the service. Empty: AWS."`
	Region    string        `yaml:"region" doc:"Region of the bucket. Empty: AWS_REGION, else us-east-1."`
	PathStyle bool          `yaml:"path_style" default:"false" doc:"Whether the bucket's name goes into the path: for most services other than AWS."`
	AccessKey string        `yaml:"access_key" doc:"Name of the key. Empty: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then credentials_file, then the role of the machine."`
	SecretKey secret.Secret `yaml:"secret_key" doc:"The key itself."`

	CredentialsFile string `yaml:"credentials_file" doc:"File in AWS's form, where there is no access_key. Empty: ~/.aws/credentials."`

	Stall    time.Duration `yaml:"stall" default:"30s" doc:"A connection to the service on which nothing moves for so long is given up."`
	Patience time.Duration `yaml:"patience" default:"2m" doc:"What fails for a reason that may pass is tried again until nothing has succeeded for so long; then it has failed."`
}

// BackupRetention says what prune keeps: of each type what is younger, and the newest so many.
type BackupRetention struct {
	Full             time.Duration `yaml:"full" default:"720h" doc:"Age up to which full backups are kept."`
	FullLast         int           `yaml:"full_last" default:"0" doc:"Full backups that are kept whatever their age."`
	Differential     time.Duration `yaml:"differential" default:"168h" doc:"Age up to which differential backups are kept."`
	DifferentialLast int           `yaml:"differential_last" default:"0" doc:"Differential backups that are kept whatever their age."`
	Incremental      time.Duration `yaml:"incremental" default:"72h" doc:"Age up to which incremental backups are kept."`
	IncrementalLast  int           `yaml:"incremental_last" default:"0" doc:"Incremental backups that are kept whatever their age."`
	Logical          time.Duration `yaml:"logical" default:"720h" doc:"Age up to which dumps are kept."`
	LogicalLast      int           `yaml:"logical_last" default:"0" doc:"Dumps that are kept whatever their age."`
	Unfinished       time.Duration `yaml:"unfinished" default:"24h" doc:"Age up to which what killed backups stored is kept, for the next one to go on with."`
	Minimum          int           `yaml:"minimum" default:"2" doc:"Intact backups of the whole cluster that are kept in any case; the newest that was proven by a test restore is kept besides."`
}

// BackupJob is one entry of the schedule.
type BackupJob struct {
	Kind   string        `yaml:"kind" doc:"full, differential, incremental, logical, verify, test-restore or prune. Without any entry: full on Sunday and incremental every day at 2:30, prune at 4:30, test-restore on Sunday at 5:30, verify on the first of the month, in UTC."`
	Cron   string        `yaml:"cron" doc:"When, as in crontab(5): minute hour day month weekday, or @daily and the like."`
	Zone   string        `yaml:"zone" doc:"Time zone, such as Europe/Berlin; not set: UTC. What clocks skip happens as much later, what they repeat happens once."`
	Jitter time.Duration `yaml:"jitter" doc:"Starts up to so much later, so that many machines do not start at once."`
	Grace  time.Duration `yaml:"grace" doc:"Without a success so long after its time, people are told; not set: 6h."`
}

// usualSchedule is what happens where backups are configured and no schedule is.
func usualSchedule() []BackupJob {
	const jitter = 10 * time.Minute
	return []BackupJob{
		{Kind: "full", Cron: "30 2 * * SUN", Jitter: jitter},
		{Kind: "incremental", Cron: "30 2 * * MON-SAT", Jitter: jitter},
		{Kind: "prune", Cron: "30 4 * * *", Jitter: jitter},
		{Kind: "test-restore", Cron: "30 5 * * SUN", Jitter: jitter},
		{Kind: "verify", Cron: "30 6 1 * *", Jitter: jitter},
	}
}

// Jobs are the entries of the schedule, read.
func (c Backup) Jobs() ([]schedule.Job, error) {
	entries := c.Schedule
	if len(entries) == 0 {
		entries = usualSchedule()
	}
	var faults errs.Fields
	jobs := make([]schedule.Job, len(entries))
	for i, e := range entries {
		cron, err := schedule.ParseCron(e.Cron, e.Zone)
		for _, f := range errs.FieldsOf(err) {
			faults.Add(fmt.Sprintf("schedule[%d].%s", i, f.Field), f.Message)
		}
		jobs[i] = schedule.Job{Kind: schedule.Kind(e.Kind), Cron: cron, Jitter: e.Jitter, Grace: e.Grace}
	}
	for _, f := range errs.FieldsOf(schedule.Check(jobs)) {
		faults.Add(f.Field, f.Message)
	}
	return jobs, faults.Err()
}

// Policy is the policy as the room of backups knows it. 0 in both of a type's settings is taken for "keep none but the minimum".
func (c BackupRetention) Policy() backup.Retention {
	keep := func(age time.Duration, last int) backup.Keep {
		return backup.Keep{For: max(age, 1), Last: last}
	}
	return backup.Retention{
		Full: keep(c.Full, c.FullLast), Differential: keep(c.Differential, c.DifferentialLast),
		Incremental: keep(c.Incremental, c.IncrementalLast), Logical: keep(c.Logical, c.LogicalLast), Minimum: c.Minimum,
		Unfinished: c.Unfinished,
	}
}

func (c Backup) check(f *errs.Fields, hooks []Webhook) {
	if c.Repo != "" {
		if err := checkRepoURL(c.Repo); err != nil {
			f.Add("backup.repo", err.Error())
		}
	}
	if c.KeyFile != "" && c.PassphraseFile != "" {
		f.Add("backup.key_file", "and backup.passphrase_file exclude each other")
	}
	if !slices.Contains([]string{"zstd", "s2", "none"}, c.Compression) {
		f.Add("backup.compression", "must be one of zstd, s2, none")
	}
	if c.Acknowledge != "spool" && c.Acknowledge != "repository" {
		f.Add("backup.acknowledge", "must be spool or repository")
	}
	c.checkBounds(f)
	if c.PGData != "" && !filepath.IsAbs(c.PGData) {
		f.Add("backup.pgdata", "must be an absolute path")
	}
	if c.Retention.Unfinished < time.Second {
		f.Add("backup.retention.unfinished", "must be 1s or more")
	}
	if strings.Trim(c.Slot, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || c.Slot == "" || len(c.Slot) > 63 {
		f.Add("backup.slot", "must be lower-case letters, digits and underscores")
	}
	_, err := c.Jobs()
	for _, fault := range errs.FieldsOf(err) {
		f.Add("backup."+fault.Field, fault.Message)
	}
	c.checkAlerts(f, hooks)
}

func (c Backup) checkBounds(f *errs.Fields) {
	for _, bound := range []struct {
		path        string
		value       int
		least, most int
	}{
		{"backup.compression_level", c.Level, 1, 4},
		{"backup.workers", c.Workers, 0, 256},
		{"backup.rate_mib", c.RateMiB, 0, 1 << 20},
		{"backup.retention.minimum", c.Retention.Minimum, 1, 10_000},
	} {
		if bound.value < bound.least || bound.value > bound.most {
			f.Add(bound.path, fmt.Sprintf("must be between %d and %d", bound.least, bound.most))
		}
	}
	for _, bound := range []struct {
		path        string
		value, most time.Duration
		says        string
	}{
		{"backup.s3.stall", c.S3.Stall, 10 * time.Minute, "10m"},
		{"backup.s3.patience", c.S3.Patience, time.Hour, "1h"},
		{"backup.lease", c.Lease, time.Hour, "1h"},
	} {
		if bound.value < time.Second || bound.value > bound.most {
			f.Add(bound.path, "must be between 1s and "+bound.says)
		}
	}
}

func (c Backup) checkAlerts(f *errs.Fields, hooks []Webhook) {
	for i, a := range c.AlertMail {
		if _, err := mail.ParseAddress(a); err != nil {
			f.Add(fmt.Sprintf("backup.alert_mail[%d]", i), "must be an e-mail address")
		}
	}
	for i, u := range c.AlertWebhooks {
		if !slices.ContainsFunc(hooks, func(w Webhook) bool { return w.URL == u }) {
			f.Add(fmt.Sprintf("backup.alert_webhooks[%d]", i), "must be the url of an entry of webhooks, which has its secrets")
		}
	}
}

var errRepoURL = errors.New("must be file:///absolute/folder or s3://bucket/prefix")

func checkRepoURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.RawQuery != "", u.Fragment != "", u.User != nil:
		return errRepoURL
	case u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path) && filepath.Clean(u.Path) != "/":
		return nil
	case u.Scheme == "s3" && u.Host != "":
		return nil
	}
	return errRepoURL
}

// Source is the address backups are taken from.
func (c Backup) Source(p Postgres) secret.Secret {
	if c.DSN.IsZero() {
		return p.DSN
	}
	return c.DSN
}

// SpoolDir is the folder for write-ahead log on its way.
func (c Backup) SpoolDir() (string, error) {
	switch {
	case c.Spool != "":
		return filepath.Abs(c.Spool)
	case c.PGData != "":
		return filepath.Clean(c.PGData) + ".spool", nil
	}
	return "", errs.NewInvalid("backup.spool", "must name a folder for write-ahead log on its way (or backup.pgdata the data folder)")
}
