// Package backups works with the backups of one configuration, for the commands
// of operators and for the processes: [Open] finds the repository and its key,
// [Operator.Keep] receives write-ahead log and runs the schedule. What a backup
// is and how it is taken lives in the rooms below backup/.
package backups

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/app/config"
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
	Backup             = backup.Backup
	Details            = backup.Details
	Key                = backup.Key
	Type               = backup.Type
	Verdict            = backup.Verdict
	Finding            = backup.Finding
	Removal            = backup.Removal
	Progress           = backup.Progress
	CreateOptions      = backup.CreateOptions
	VerifyOptions      = backup.VerifyOptions
	RestoreOptions     = backup.RestoreOptions
	RestoreProgress    = backup.RestoreProgress
	Restored           = backup.Restored
	TestRestoreOptions = backup.TestRestoreOptions
	Proof              = backup.Proof
	Window             = backup.Window
)

// Modes of a restore.
const (
	Fresh   = backup.Fresh
	Delta   = backup.Delta
	InPlace = backup.InPlace
)

// Rollback puts back what a restore in place kept aside.
func Rollback(dir string) error { return backup.Recovery{}.Rollback(dir) }

// Confirm removes what a restore in place kept aside.
func Confirm(dir string) error { return backup.Recovery{}.Confirm(dir) }

// Errors of finding the repository.
var (
	ErrNoRepository = errs.New(errs.Invalid, "no_backup_repository", "no repository of backups is configured").
			WithHint("name it with --repo file:///folder --key-file FILE, or set backup.repo and backup.key_file")
	ErrNoBackupKey = errs.New(errs.Invalid, "no_backup_key", "no key of the repository is configured").
			WithHint("name it with --key-file FILE; make one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE), and keep a copy elsewhere")
)

// Find loads the configuration of a command that works with backups.
// What src itself says of a repository is all there is; only without it the data folder is asked.
func Find(src config.Source, dataDir string) (config.Config, error) {
	if dataDir == "" {
		cfg, err := config.Load(src)
		if err != nil || cfg.Backup.Repo != "" {
			return cfg, err
		}
	}
	t, err := config.Find(src, dataDir)
	return t.Config, err
}

// Options says how the repository is opened.
type Options struct {
	Create     bool // make it if there is none
	NewCluster bool // let another cluster in
	Stderr     io.Writer
	Registerer prometheus.Registerer
}

// Operator works with the backups of one configuration.
type Operator struct {
	*backup.Manager
	config config.Config
	log    *slog.Logger
	db     *postgres.DB // of backup_history; nil without
}

// BoundMemory has the garbage collector work harder instead of letting the process grow beyond what backups need of a
// cluster however large, unless the process or its environment (GOMEMLIMIT) has a bound already.
func BoundMemory() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(200 << 20)
	}
}

// Open opens the repository. The database need not answer.
func Open(ctx context.Context, cfg config.Config, o Options) (*Operator, error) {
	BoundMemory()
	keys, err := readKeys(cfg.Backup)
	if err != nil {
		return nil, err
	}
	b := &Operator{config: cfg, log: cfg.Log.Logger(o.Stderr)}
	if !cfg.Postgres.DSN.IsZero() {
		if b.db, err = postgres.Open(ctx, postgres.Config{DSN: cfg.Postgres.DSN.Reveal(), MaxConns: 2, Logger: slog.New(slog.DiscardHandler)}); err != nil {
			b.db = nil // the repository is the truth
		}
	}
	c := cfg.Backup
	b.Manager, err = backup.Open(ctx, backup.Config{
		Repo: c.Repo, Keys: keys, S3: backup.S3(c.S3), Create: o.Create, NewCluster: o.NewCluster,
		DSN: c.Source(cfg.Postgres), PGData: c.PGData, Compression: repo.Compression{Name: c.Compression, Level: c.Level},
		Workers: c.Workers, Lease: c.Lease, Rate: int64(c.RateMiB) << 20, Slot: c.Slot, Retention: c.Retention.Policy(),
		History: b.db, Tool: "rootstream " + config.Version(), Registerer: o.Registerer, Logger: b.log,
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
func (b *Operator) Recovery(flags map[string]string) backup.Recovery {
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
func OpenRepo(ctx context.Context, cfg config.Config, create bool) (*repo.Repo, error) {
	keys, err := readKeys(cfg.Backup)
	if err != nil {
		return nil, err
	}
	log := cfg.Log.Logger(os.Stderr)
	st, err := backup.OpenStorage(cfg.Backup.Repo, backup.S3(cfg.Backup.S3), create, log)
	if err != nil {
		return nil, err
	}
	return repo.Open(ctx, st, keys, repo.Config{Create: create, Logger: log})
}

// Close gives back connections.
func (b *Operator) Close() {
	if b.db != nil {
		b.db.Close()
	}
}

// readKeys reads the key of the repository.
func readKeys(c config.Backup) ([]repo.Key, error) {
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
	text, err := config.ReadSmall(file, maxKeyFile)
	if err != nil {
		return repo.Key{}, ErrKeyFile.WithCause(fmt.Errorf("%s: %w", setting, err)).
			WithHint("put the key file back; if this is a new repository, make one: (umask 077; head -c 32 /dev/urandom | base64 > " + file + ")")
	}
	return repo.Key{Secret: secret.FromBytes([]byte(text)), Kind: kind}, nil
}

// ReadKey reads a key that is to be added to a repository; one of the two names a file.
func ReadKey(keyFile, passphraseFile string) (repo.Key, error) {
	switch {
	case (keyFile == "") == (passphraseFile == ""):
		return repo.Key{}, errs.NewInvalid("--new-key-file", "or --new-passphrase-file is required, one of the two")
	case keyFile != "":
		return readKey("--new-key-file", keyFile, repo.KeyFile)
	}
	return readKey("--new-passphrase-file", passphraseFile, repo.KeyPassphrase)
}
