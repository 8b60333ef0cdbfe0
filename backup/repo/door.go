package repo

import (
	"rootstream/backup/repo/codec"
	"rootstream/backup/repo/files"
	"rootstream/backup/repo/logs"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/run"
	"rootstream/backup/repo/seal"
	"rootstream/errs"
)

// What the rooms below hand out, under the names that it has outside: nobody else opens them.
type (
	// Key opens a repository.
	Key = seal.Key
	// KeyInfo is what a repository tells about one of its keys.
	KeyInfo = seal.KeyInfo
	// Hash names content.
	Hash = seal.Hash
	// Hasher makes hashes; one per goroutine.
	Hasher = seal.Hasher
	// Compression says how to compress.
	Compression = codec.Compression
	// PackID names a pack.
	PackID = pack.ID
	// Blob says where data is, and all that is needed to read and authenticate it.
	Blob = pack.Blob
	// Lane fills packs; each worker has its own.
	Lane = pack.Lane
	// Index finds blobs that an earlier run has stored.
	Index = pack.Index
	// File is an entry of a data folder, and where its pages are.
	File = files.File
	// Extent is a run of a file's pages.
	Extent = files.Extent
	// FileWriter writes a stream of files.
	FileWriter = files.Writer
	// Shelf holds files that come in no order.
	Shelf = files.Shelf
	// RunInfo says who is about to write, and what for.
	RunInfo = run.Info
	// WALInfo is a file of the write-ahead log in the repository.
	WALInfo = logs.WALInfo
	// Piece is a part of a segment that is still being written.
	Piece = logs.Piece
)

// Kinds of keys.
const (
	KeyFile       = seal.KeyFile
	KeyPassphrase = seal.KeyPassphrase
)

// Kinds and sizes of what is in a data folder.
const (
	Regular  = files.Regular
	Dir      = files.Dir
	Symlink  = files.Symlink
	PageSize = files.PageSize
	MaxBlob  = pack.MaxBlob
)

// What can go wrong with a repository, besides what its storage says.
var (
	ErrNoRepository = seal.ErrNoRepository
	ErrWrongKey     = seal.ErrWrongKey
	ErrKey          = seal.ErrKey
	ErrNoKey        = seal.ErrNoKey
	ErrLastKey      = seal.ErrLastKey
	ErrDamaged      = seal.ErrDamaged
	ErrFormat       = seal.ErrFormat
	ErrInvalid      = seal.ErrInvalid
	ErrOtherCluster = logs.ErrOtherCluster
	ErrWALConflict  = logs.ErrWALConflict
	ErrWALAbsent    = logs.ErrWALAbsent
	ErrLeaseHeld    = run.ErrLeaseHeld
	ErrLeaseLost    = run.ErrLeaseLost
	ErrNoBackup     = errs.New(errs.NotFound, "no_backup", "there is no such backup")
	ErrPinned       = errs.New(errs.Conflict, "backup_pinned", "the backup is pinned")
	ErrLogGone      = errs.New(errs.Unavailable, "backup_log_gone", "the backup would begin in write-ahead log that no other backup needs and that is therefore deleted")
	ErrWithdrawn    = errs.New(errs.Conflict, "backup_withdrawn", "the backup was withdrawn: a deletion that ran beside it takes data that it needs")
)

// InRow picks from pieces those that follow each other from the beginning of the segment on.
func InRow(pieces []Piece) []Piece { return logs.InRow(pieces) }

// NewShelf makes an empty shelf.
func NewShelf() (*Shelf, error) { return files.NewShelf() }
