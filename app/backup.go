package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/backup"
	"rootstream/backup/repo"
	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
)

// The types of the backup commands.
//
//nolint:revive // each is documented where it is defined
type (
	Backup            = backup.Backup
	BackupDetails     = backup.Details
	BackupKey         = backup.Key
	BackupType        = backup.Type
	BackupVerdict     = backup.Verdict
	BackupFinding     = backup.Finding
	BackupRemoval     = backup.Removal
	BackupProgress    = backup.Progress
	CreateBackup      = backup.CreateOptions
	VerifyBackups     = backup.VerifyOptions
	RestoreBackup     = backup.RestoreOptions
	RestoreProgress   = backup.RestoreProgress
	Restored          = backup.Restored
	TestRestoreBackup = backup.TestRestoreOptions
	BackupProof       = backup.Proof
	BackupWindow      = backup.Window
)

// Modes of a restore.
const (
	RestoreFresh   = backup.Fresh
	RestoreDelta   = backup.Delta
	RestoreInPlace = backup.InPlace
)

// RollbackRestore puts back what a restore in place kept aside.
func RollbackRestore(dir string) error { return backup.Recovery{}.Rollback(dir) }

// ConfirmRestore removes what a restore in place kept aside.
func ConfirmRestore(dir string) error { return backup.Recovery{}.Confirm(dir) }

// Errors of finding the repository.
var (
	ErrNoRepository = errs.New(errs.Invalid, "no_backup_repository", "no repository of backups is configured").
			WithHint("name it with --repo file:///folder --key-file FILE, or set backup.repo and backup.key_file")
	ErrNoBackupKey = errs.New(errs.Invalid, "no_backup_key", "no key of the repository is configured").
			WithHint("name it with --key-file FILE; make one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE), and keep a copy elsewhere")
)

// FindBackups loads the configuration of a command that works with backups.
// What src itself says of a repository is all there is; only without it the data folder is asked.
func FindBackups(src Source, dataDir string) (Config, error) {
	if dataDir == "" {
		cfg, err := Load(src)
		if err != nil || cfg.Backup.Repo != "" {
			return cfg, err
		}
	}
	t, err := Find(src, dataDir)
	return t.Config, err
}

// BackupOptions says how the repository is opened.
type BackupOptions struct {
	Create     bool // make it if there is none
	NewCluster bool // let another cluster in
	Stderr     io.Writer
	Registerer prometheus.Registerer
}

// Backups are the backups of one configuration.
type Backups struct {
	*backup.Manager
	config Config
	log    *slog.Logger
	db     *postgres.DB // of backup_history; nil without
}

// OpenBackups opens the repository. The database need not answer.
func OpenBackups(ctx context.Context, cfg Config, o BackupOptions) (*Backups, error) {
	keys, err := cfg.Backup.keys()
	if err != nil {
		return nil, err
	}
	b := &Backups{config: cfg, log: newLogger(cfg.Log, o.Stderr)}
	if !cfg.Postgres.DSN.IsZero() {
		if b.db, err = postgres.Open(ctx, postgres.Config{DSN: cfg.Postgres.DSN.Reveal(), MaxConns: 2, Logger: slog.New(slog.DiscardHandler)}); err != nil {
			b.db = nil // the repository is the truth
		}
	}
	c := cfg.Backup
	b.Manager, err = backup.Open(ctx, backup.Config{
		Repo: c.Repo, Keys: keys, S3: backup.S3(c.S3), Create: o.Create, NewCluster: o.NewCluster,
		DSN: c.source(cfg.Postgres), PGData: c.PGData, Compression: repo.Compression{Name: c.Compression, Level: c.Level},
		Workers: c.Workers, Lease: c.Lease, Rate: int64(c.RateMiB) << 20, Slot: c.Slot, Retention: c.Retention.retention(),
		History: b.db, Tool: "rootstream " + Version(), Registerer: o.Registerer, Logger: b.log,
	})
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Recovery returns what restores these backups; flags are those that named the
// repository, by key of the configuration. A server that is restored fetches its
// write-ahead log with this program, which must find the repository by itself.
func (b *Backups) Recovery(flags map[string]string) backup.Recovery {
	self, err := os.Executable()
	if err != nil {
		self = "rootstream"
	}
	c := b.config.Backup
	fetch := []string{self, "wal", "fetch", "--repo", c.Repo}
	for _, f := range []struct{ flag, value string }{
		{"--key-file", absolute(c.KeyFile)},
		{"--passphrase-file", absolute(c.PassphraseFile)},
		{"--s3-endpoint", flags["backup.s3.endpoint"]},
		{"--s3-region", flags["backup.s3.region"]},
	} {
		if f.value != "" {
			fetch = append(fetch, f.flag, f.value)
		}
	}
	if c.S3.PathStyle {
		fetch = append(fetch, "--s3-path-style")
	}
	return b.Manager.Recovery(fetch...)
}

// absolute makes a file's name one that is right in any folder.
func absolute(name string) string {
	if name == "" {
		return ""
	}
	if abs, err := filepath.Abs(name); err == nil {
		return abs
	}
	return name
}

// OpenRepo opens the repository alone, as quickly as it can be.
func OpenRepo(ctx context.Context, cfg Config, create bool) (*repo.Repo, error) {
	keys, err := cfg.Backup.keys()
	if err != nil {
		return nil, err
	}
	st, err := backup.OpenStorage(cfg.Backup.Repo, backup.S3(cfg.Backup.S3), create)
	if err != nil {
		return nil, err
	}
	return repo.Open(ctx, st, keys, repo.Config{Create: create, Logger: newLogger(cfg.Log, os.Stderr)})
}

// Close gives back connections.
func (b *Backups) Close() {
	if b.db != nil {
		b.db.Close()
	}
}

// source is the address backups are taken from.
func (c BackupConfig) source(p PostgresConfig) secret.Secret {
	if c.DSN.IsZero() {
		return p.DSN
	}
	return c.DSN
}

// keys reads the key of the repository.
func (c BackupConfig) keys() ([]repo.Key, error) {
	if c.Repo == "" {
		return nil, ErrNoRepository
	}
	switch {
	case c.KeyFile != "":
		k, err := readKey("backup.key_file", c.KeyFile, repo.KeyFile)
		return []repo.Key{k}, err
	case c.PassphraseFile != "":
		k, err := readKey("backup.passphrase_file", c.PassphraseFile, repo.KeyPassphrase)
		return []repo.Key{k}, err
	}
	return nil, ErrNoBackupKey
}

const maxKeyFile = 4096

// ErrKeyFile is a key file that is not there or cannot be read: without it there is nothing to open the repository with.
var ErrKeyFile = errs.New(errs.Forbidden, "backup_key_file", "the key of the repository cannot be read")

func readKey(setting, file, kind string) (repo.Key, error) {
	text, err := readSmall(file, maxKeyFile)
	if err != nil {
		return repo.Key{}, ErrKeyFile.WithCause(fmt.Errorf("%s: %w", setting, err)).
			WithHint("put the key file back; if this is a new repository, make one: (umask 077; head -c 32 /dev/urandom | base64 > " + file + ")")
	}
	return repo.Key{Secret: secret.FromBytes([]byte(text)), Kind: kind}, nil
}

// ReadBackupKey reads a key that is to be added to a repository; one of the two names a file.
func ReadBackupKey(keyFile, passphraseFile string) (repo.Key, error) {
	switch {
	case (keyFile == "") == (passphraseFile == ""):
		return repo.Key{}, errs.NewInvalid("--new-key-file", "or --new-passphrase-file is required, one of the two")
	case keyFile != "":
		return readKey("--new-key-file", keyFile, repo.KeyFile)
	}
	return readKey("--new-passphrase-file", passphraseFile, repo.KeyPassphrase)
}
