// Package doctor looks at a system from outside and changes nothing: [Examine]
// says what is wrong and what to do about it, [Status] how each part is.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rootstream/app/config"
	"rootstream/devstack"
	"rootstream/errs"
	"rootstream/internal/counted"
	"rootstream/pgserver"
	"rootstream/secret"
)

// Finding is one thing the doctor looked at.
type Finding = devstack.Check

// Options says where to look.
type Options struct {
	Source  config.Source
	DataDir string // "" means what Source names, else the default folder
}

// Examine looks at this machine and the servers. It changes nothing.
func Examine(ctx context.Context, o Options) []Finding { return examineAt(ctx, o, time.Now()) }

func examineAt(ctx context.Context, o Options, now time.Time) []Finding {
	target, err := config.Find(o.Source, o.DataDir)
	if errors.Is(err, config.ErrNoStack) { // told below, as a finding of its own
		target.Config, err = config.Load(o.Source)
	}
	cfg, dir := target.Config, target.DataDir
	known := !cfg.Postgres.DSN.IsZero()
	if dir == "" && !known {
		if dir = o.DataDir; dir == "" {
			dir = config.DefaultDataDir()
		}
	}
	if o.DataDir == "" && target.DataDir == "" && !known && cfg.Backup.Repo != "" {
		return append(configFindings(err), examineBackups(ctx, cfg, now)...)
	}
	findings := configFindings(err)
	if dir != "" { // the servers are to run here
		findings = append(findings, devstack.Checks(ctx, devstack.Config{DataDir: dir, Listen: cfg.HTTP.Listen})...)
	}
	if !known {
		return append(findings, Finding{
			Name: "stack", Detail: "no database is configured, and no stack was ever started in " + dir, Remedy: upCommand(o.DataDir),
		})
	}
	x := examination{examined: examine(ctx, cfg), cfg: cfg, dir: target.DataDir, now: now}
	x.running = slices.ContainsFunc(findings, func(f Finding) bool { return f.Name == "data_folder_lock" && f.Detail != "free" })
	for _, look := range []func() []Finding{
		x.postgres, x.schema, x.masterKey, x.keyset, x.redis, x.clocks, x.tls, x.api, x.outbox,
	} {
		findings = append(findings, look()...)
	}
	if x.backups.configured {
		findings = append(findings, x.backupFindings()...)
		if x.backups.err == nil {
			findings = append(findings, x.backupSlot())
		}
	}
	return findings
}

func upCommand(dataDir string) string {
	if dataDir == "" || dataDir == config.DefaultDataDir() {
		return "rootstream up"
	}
	return "rootstream up --data " + dataDir
}

// configFindings makes each fault of the configuration a finding of its own.
func configFindings(err error) []Finding {
	const name = "configuration"
	if err == nil {
		return []Finding{{Name: name, OK: true, Detail: "no faults"}}
	}
	faults := errs.FieldsOf(err)
	if len(faults) == 0 {
		return []Finding{failed(name, err, "rootstream config validate")}
	}
	findings := make([]Finding, 0, len(faults))
	for _, f := range faults {
		findings = append(findings, Finding{
			Name: name, Detail: f.Field + " " + f.Message, Remedy: "correct it, then: rootstream config validate",
		})
	}
	return findings
}

// failed makes a finding of an error; its own hint beats the remedy given.
func failed(name string, err error, remedy string) Finding {
	if e := errs.Of(err); e != nil && e.Hint != "" {
		remedy = e.Hint
	}
	return Finding{Name: name, Detail: flat(err), Remedy: remedy}
}

func fine(name, format string, args ...any) Finding {
	return Finding{Name: name, OK: true, Detail: fmt.Sprintf(format, args...)}
}

// examination turns what the parts said into findings.
type examination struct {
	*examined
	cfg     config.Config
	dir     string // the data folder of rootstream up; "" when the servers are elsewhere
	running bool   // somebody runs the stack of dir
	now     time.Time
}

func (x examination) postgres() []Finding {
	const name, writes, connections = "postgresql", "postgresql_writes", "postgresql_connections"
	at := databaseAddress(x.cfg)
	if err := x.database.err; err != nil {
		remedy := "start PostgreSQL at " + at + " and let this machine connect (pg_hba.conf, firewall); the address is the setting postgres.dsn"
		switch {
		case x.running:
			remedy = "the stack runs, so see " + x.dir + "/logs/node.log and postgres.log"
		case x.dir != "":
			remedy = upCommand(x.dir)
		}
		if e := errs.Of(err); e != nil && e.Hint != "" {
			remedy = e.Hint + "; " + remedy
		}
		return []Finding{{Name: name, Detail: flat(err), Remedy: remedy}}
	}
	s := x.database.server
	findings := []Finding{fine(name, "PostgreSQL %s at %s", s.Version, at)}
	if s.VersionNum/10000 < pgserver.MinMajor {
		findings[0] = Finding{Name: name, Detail: fmt.Sprintf("PostgreSQL %s at %s is older than %d", s.Version, at, pgserver.MinMajor), Remedy: "upgrade that server with pg_upgrade"}
	}
	switch {
	case s.Standby:
		findings = append(findings, Finding{Name: writes, Detail: "the server is a standby and takes no writes", Remedy: "let postgres.dsn name the primary; with several hosts, add target_session_attrs=read-write"})
	case s.ReadOnly:
		findings = append(findings, Finding{
			Name: writes, Detail: "the server takes no writes: default_transaction_read_only is on",
			Remedy: `psql -c "ALTER SYSTEM RESET default_transaction_read_only" -c "SELECT pg_reload_conf()", also for the role and the database`,
		})
	default:
		findings = append(findings, fine(writes, "the server takes writes"))
	}
	used := Finding{Name: connections, OK: true, Detail: fmt.Sprintf("%d of %d in use", s.Connections, s.MaxConnections)}
	if 10*s.Connections > 9*s.MaxConnections {
		used.OK, used.Remedy = false, "lower postgres.max_conns of the instances, or raise max_connections of the server"
	}
	return append(findings, used)
}

func (x examination) schema() []Finding {
	const name = "schema"
	if x.database.err != nil {
		return nil
	}
	if err := x.database.schema; err != nil {
		return []Finding{failed(name, err, "rootstream migrate status")}
	}
	if n := pending(x.database.steps, "expand"); n > 0 {
		return []Finding{{
			Name: name, Detail: "not applied: " + counted.Of(n, "step") + "; rootstream serve does so when it starts",
			Remedy: "rootstream migrate up --rolling",
		}}
	}
	if n := pending(x.database.steps, "contract"); n > 0 {
		return []Finding{fine(name, "up to date, but for %s to take with `rootstream migrate up`, once no program of Phase 24.2 writes", counted.Of(n, "step"))}
	}
	return []Finding{fine(name, "up to date")}
}

func (x examination) masterKey() []Finding {
	const name = "master_key"
	file, sealed := x.cfg.Keys.MasterKeyFile, slices.Contains(x.database.content.Keysets, config.KeysetName)
	create := func(file string) string {
		fresh := fmt.Sprintf("(umask 077; openssl rand -hex 32 > %s)", file)
		switch {
		case sealed:
			return "put the master key file back that this database was first started with; a new one cannot open what it sealed"
		case x.database.err != nil:
			return "if this database was ever started with a master key, put that file back; if not: " + fresh
		}
		return fresh
	}
	err := x.keys.err
	switch {
	case file == "":
		return []Finding{{
			Name: name, Detail: "no master key is configured: second factors and refresh answer 503 keyset_missing",
			Remedy: "let keys.master_key_file name the file; " + create("/etc/rootstream/master.key"),
		}}
	case errors.Is(err, secret.ErrMasterKeyMissing):
		return []Finding{{Name: name, Detail: flat(err), Remedy: create(file)}}
	case errors.Is(err, secret.ErrMasterKeyOpen):
		return []Finding{{Name: name, Detail: flat(err), Remedy: "chmod 600 " + file}}
	case errors.Is(err, secret.ErrMasterKeyShort), errors.Is(err, secret.ErrMasterKeyFile):
		return []Finding{{Name: name, Detail: flat(err), Remedy: create(file)}}
	case errors.Is(err, secret.ErrWrongMasterKey):
		return []Finding{failed(name, err, "")}
	}
	return []Finding{fine(name, "%s", file)}
}

// keysetSlack is how much younger than what it sealed a keyset may look, for clocks differ.
const keysetSlack = time.Minute

func (x examination) keyset() []Finding {
	const name = "keyset"
	c := x.database.content
	remedy := "restore the table keysets from a backup, or reset the factors: rootstream mfa reset USER"
	switch {
	case x.database.err != nil:
		return nil
	case !slices.Contains(c.Keysets, config.KeysetName) && c.SealedFactors > 0:
		return []Finding{{Name: name, Detail: "the keyset is gone; sealed with it: " + counted.Of(c.SealedFactors, "second factor"), Remedy: remedy}}
	case !slices.Contains(c.Keysets, config.KeysetName):
		return []Finding{fine(name, "none yet: the first server with a master key makes it")}
	case !x.keys.opened && x.keys.err != nil && !errors.Is(x.keys.err, secret.ErrWrongMasterKey):
		if e := errs.Of(x.keys.err); e != nil && strings.HasPrefix(e.Code, "master_key") {
			return nil // told by the finding master_key
		}
		return []Finding{failed(name, x.keys.err, remedy)}
	case !x.keys.opened:
		return nil
	}
	keys := x.keys.status.Keys // oldest first
	if c.OldestSealed != nil && len(keys) > 0 && keys[0].AddedAt.After(c.OldestSealed.Add(keysetSlack)) {
		return []Finding{{
			Name: name, Detail: fmt.Sprintf("the keyset was made at %s, after second factors were sealed: the one that sealed them is gone",
				keys[0].AddedAt.UTC().Format(time.RFC3339)), Remedy: remedy,
		}}
	}
	return []Finding{fine(name, "%s, opened by master key %s", counted.Of(len(keys), "key"), x.keys.status.MasterKey)}
}

// outboxPatience is how long a mail may wait before something is wrong.
const outboxPatience = 15 * time.Minute

func (x examination) outbox() []Finding {
	const name = "outbox"
	c := x.database.content
	switch {
	case x.database.err != nil:
		return nil
	case c.OutboxOldest == nil || x.now.Sub(*c.OutboxOldest) < outboxPatience:
		return []Finding{fine(name, "%d waiting", c.OutboxPending)}
	}
	f := Finding{
		Name: name, Detail: fmt.Sprintf("%s waiting, the oldest since %s", counted.Of(c.OutboxPending, "message"), c.OutboxOldest.UTC().Format(time.RFC3339)),
		Remedy: "see why in the log of rootstream serve (search for notify)",
	}
	if x.cfg.Mail.SMTPHost == "" && x.cfg.Mail.Dir == "" {
		f.Remedy = "set mail.smtp_host, without which no mail leaves: rootstream config explain mail"
	}
	return []Finding{f}
}
