package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/repo/files"
	"rootstream/backup/repo/logs"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/run"
	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
)

// Config says how to use a repository.
type Config struct {
	Create     bool          // create the repository if there is none
	NewCluster bool          // let a cluster in though the repository belongs to another
	PackSize   int           // bytes a pack has at most; 0 means 16 MiB, at most 32 MiB
	Uploads    int           // packs on their way at once; 0 means 4
	Rate       int64         // bytes per second that are uploaded; 0 means no limit
	LeaseTTL   time.Duration // a run that has not said for so long that it lives is dead; 0 means 60 s
	Logger     *slog.Logger  // nil means slog.Default
}

func (c Config) withDefaults() Config {
	c.PackSize = cmp.Or(c.PackSize, pack.DefaultSize)
	c.Uploads = cmp.Or(c.Uploads, 4)
	c.LeaseTTL = cmp.Or(c.LeaseTTL, time.Minute)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

func (c Config) validate() error {
	switch {
	case c.PackSize < 4<<10 || c.PackSize > pack.MaxSize:
		return ErrInvalid.WithCause(fmt.Errorf("a pack of %d bytes: 4096 to %d are allowed", c.PackSize, pack.MaxSize))
	case c.Uploads < 1 || c.Uploads > 64:
		return ErrInvalid.WithCause(fmt.Errorf("%d uploads at once: 1 to 64 are allowed", c.Uploads))
	case c.Rate < 0 || c.LeaseTTL < 0:
		return ErrInvalid.WithCause(errors.New("rates and times are not negative"))
	}
	return nil
}

// Repo is an open repository. It is safe for concurrent use.
type Repo struct {
	*logs.Store // PutWAL, GetWAL and what else there is of write-ahead logs
	st          storage.Storage
	cfg         Config
	safe        *seal.Safe
	packs       *pack.Store
	runs        *run.Book
	proven      atomic.Bool // the storage keeps to its conditions
}

// prove refuses to write where writes are not what they have to be; the service may be another one than when the repository was made.
func (r *Repo) prove(ctx context.Context) error {
	if r.proven.Load() {
		return nil
	}
	if err := storage.Prove(ctx, r.st); err != nil {
		return err
	}
	r.proven.Store(true)
	return nil
}

// MayWrite tries whether the storage lets us write, and changes nothing.
func (r *Repo) MayWrite(ctx context.Context) error { return storage.MayWrite(ctx, r.st, seal.RootName) }

// Open opens the repository in st with any of keys.
func Open(ctx context.Context, st storage.Storage, keys []Key, cfg Config) (*Repo, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	safe, err := seal.Open(ctx, st, keys, cfg.Create, cfg.Logger)
	if err != nil {
		return nil, err
	}
	packs, err := pack.NewStore(safe)
	if err != nil {
		return nil, err
	}
	r := &Repo{Store: logs.NewStore(safe, cfg.NewCluster, cfg.Logger), st: st, cfg: cfg, safe: safe, packs: packs}
	r.runs = run.NewBook(safe, cfg.LeaseTTL, r.retract, cfg.Logger)
	return r, nil
}

// ID is the repository's own.
func (r *Repo) ID() uuid.UUID { return r.safe.ID() }

// URL names where the repository is, without credentials.
func (r *Repo) URL() string { return r.st.URL() }

// Now is the time by the storage's clock.
func (r *Repo) Now(ctx context.Context) (time.Time, error) { return r.st.Now(ctx) }

// NewHasher returns what names content in this repository.
func (r *Repo) NewHasher() *Hasher { return r.safe.NewHasher() }

// Read returns a blob's plain data, authenticated, in into's memory if it has room.
func (r *Repo) Read(ctx context.Context, b Blob, into []byte) ([]byte, error) {
	return r.packs.Read(ctx, b, into)
}

// ReadBatch reads blobs, each of which is named once, and calls fn with them in the order given; the plain data is fn's
// only until it returns. Neighbours in a pack are read together, and before the first is opened: all of the batch is in
// memory as it is stored.
func (r *Repo) ReadBatch(ctx context.Context, blobs []Blob, fn func(i int, plain []byte) error) error {
	return r.packs.ReadBatch(ctx, blobs, fn)
}

// NewFileWriter writes a stream of files through lane.
func (r *Repo) NewFileWriter(lane *Lane) *FileWriter { return files.NewWriter(lane) }

// Files goes through a backup's files, in the order of pgdata.ComparePaths. It keeps no more than one in memory.
func (r *Repo) Files(ctx context.Context, m Manifest) iter.Seq2[File, error] {
	return files.Read(ctx, r.packs, m.list())
}

// PageHashes goes through the hashes of a file's pages, many at a time; they are valid until the next.
func (r *Repo) PageHashes(ctx context.Context, f File) iter.Seq2[[]Hash, error] {
	return files.PageHashes(ctx, r.packs, f)
}
