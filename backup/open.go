package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rootstream/backup/repo"
	"rootstream/backup/storage"
	"rootstream/backup/storage/file"
	"rootstream/backup/storage/s3"
	"rootstream/errs"
	"rootstream/postgres"
	"rootstream/secret"
)

// Config says what is backed up, where to and how. Repo and Keys are required;
// DSN, with PGData, only to take backups.
type Config struct {
	Repo        string           // file:///folder or s3://bucket/prefix
	Keys        []repo.Key       // any one that opens the repository will do
	S3          S3               // how to reach s3://
	Create      bool             // make the repository if there is none
	NewCluster  bool             // let another cluster into it, after pg_upgrade
	DSN         secret.Secret    // of the server to back up, directly
	PGData      string           // its data folder
	PrimaryDSN  secret.Secret    // where DSN is a standby: its primary
	Compression repo.Compression // zero means zstd
	Workers     int              // 0 means one per processor
	Lease       time.Duration    // without a sign of life for so long, a run is dead; 0 means a minute
	Rate        int64            // bytes a second; 0 means no limit
	Slot        string           // of the receiver that brings the write-ahead log; empty means rootstream_wal
	Retention   Retention        // what Prune keeps
	History     *postgres.DB     // where backup_history is kept; nil means nowhere
	Tool        string           // the program and version that manifests name
	Registerer  prometheus.Registerer
	Logger      *slog.Logger // nil means slog.Default
}

// S3 says how to reach s3:// repositories.
type S3 struct {
	Endpoint  string
	Region    string
	PathStyle bool
	AccessKey string
	SecretKey secret.Secret

	CredentialsFile string // in AWS's form, where there is no AccessKey

	Stall    time.Duration // a connection on which nothing moves for so long is given up; 0 means 30 s
	Patience time.Duration // what fails is tried again until nothing has succeeded for so long; 0 means 2 min
}

// ErrURL is an address that no storage has.
var ErrURL = errs.New(errs.Invalid, "repository_url", "a repository is at file:///absolute/folder or s3://bucket/prefix")

// OpenStorage opens what is at an address; create makes a folder that is missing. The log is told of waiting.
func OpenStorage(address string, c S3, create bool, log *slog.Logger) (storage.Storage, error) {
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, ErrURL // nothing of it is repeated: it may hold a password
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return nil, ErrURL.WithCause(fmt.Errorf("%q", address))
		}
		st, err := file.Open(u.Path, create)
		if errors.Is(err, storage.ErrNotFound) {
			return nil, repo.ErrNoRepository.WithCause(errors.New(address)).WithHint("the first backup makes it: rootstream backup create")
		}
		return st, err
	case "s3":
		if u.Host == "" {
			return nil, ErrURL.WithCause(fmt.Errorf("%q names no bucket", address))
		}
		return s3.Open(s3.Config{
			Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: c.Endpoint, Region: c.Region, PathStyle: c.PathStyle,
			AccessKey: c.AccessKey, SecretKey: c.SecretKey, CredentialsFile: c.CredentialsFile, Stall: c.Stall, Patience: c.Patience, Logger: log,
		})
	}
	return nil, ErrURL.WithCause(fmt.Errorf("%q", address))
}

// Manager takes, lists, checks and removes the backups of one repository. It is
// safe for concurrent use, also by many processes: the repository sees to that.
type Manager struct {
	cfg     Config
	storage storage.Storage
	repo    *repo.Repo
	log     *slog.Logger
}

// Open opens the repository.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Slot == "" {
		cfg.Slot = "rootstream_wal"
	}
	st, err := OpenStorage(cfg.Repo, cfg.S3, cfg.Create, cfg.Logger)
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, st, cfg.Keys, repo.Config{
		Create: cfg.Create, NewCluster: cfg.NewCluster, Rate: cfg.Rate, LeaseTTL: cfg.Lease, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, storage: st, repo: r, log: cfg.Logger.With("component", "backup")}
	return m, nil
}

// Repo returns the repository, for those who bring write-ahead log into it.
func (m *Manager) Repo() *repo.Repo { return m.repo }

// URL names the repository, without credentials.
func (m *Manager) URL() string { return m.repo.URL() }
