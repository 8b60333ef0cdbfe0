// Package storage is where a repository keeps its objects: a flat space of
// immutable, durable objects with names like "packs/3f/…".
//
// [Storage] is the contract; storage/file and storage/s3 keep it, and
// storage/storagetest proves that they do. What the objects mean, and that they
// are sealed, is package repo's business.
package storage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/errs"
)

// What a storage answers. Anything it cannot tell for sure is ErrUnreachable.
var (
	ErrNotFound    = errs.New(errs.NotFound, "object_not_found", "there is no such object")
	ErrExists      = errs.New(errs.Conflict, "object_exists", "the object is there already")
	ErrChanged     = errs.New(errs.Precondition, "object_changed", "somebody else changed the object")
	ErrUnreachable = errs.New(errs.Unavailable, "storage_unreachable", "the storage does not answer")
	ErrFull        = errs.New(errs.Unavailable, "storage_full", "the storage is full")
	ErrDenied      = errs.New(errs.Forbidden, "storage_denied", "the storage does not let us")
	ErrLarge       = errs.New(errs.Internal, "object_large", "the object is larger than it may be")
	ErrShort       = errs.New(errs.Internal, "object_short", "the object is shorter than it has to be")
	ErrUnfit       = errs.New(errs.Invalid, "storage_unfit", "the storage is not fit for a repository")
	ErrName        = errs.New(errs.Invalid, "object_name", "not the name of an object")
)

// ErrInDoubt is why a Swap ended with ErrUnreachable although the storage answers again.
var ErrInDoubt = errors.New("an answer was lost, and somebody else has written since: it may or may not have been done")

// Gone reports that a storage has proven an object absent.
func Gone(err error) bool { return errors.Is(err, ErrNotFound) }

// Object is what a storage says about an object.
type Object struct {
	Name     string
	Size     int64
	Modified time.Time // by the storage's clock
	Tag      string    // what Swap compares; Stat alone fills it in
}

// Storage keeps objects. Every call ends when its context does. What one
// process wrote, all others see in their next call.
type Storage interface {
	// Put creates an object, all of it or nothing, durable once it returns; ErrExists if there is one.
	Put(ctx context.Context, name string, body []byte) error
	// Swap replaces the object that has the tag, and returns the new tag; ErrChanged if it has another.
	// An empty tag means that there must be none. Bodies have to differ from each other.
	// After ErrUnreachable, as with every call, it may have happened or happen yet.
	Swap(ctx context.Context, name string, body []byte, tag string) (string, error)
	// Get reads n bytes from off on, or to the end if n < 0. ErrNotFound: proven absent; ErrShort: it ends before;
	// ErrLarge, before anything is read: more than -n bytes lead to the end, where n is AtMost something.
	Get(ctx context.Context, name string, off, n int64) ([]byte, error)
	// Stat describes one object.
	Stat(ctx context.Context, name string) (Object, error)
	// List goes through the objects whose names begin with prefix, in the order of their names' bytes.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]
	// Folders returns, in order, what stands between prefix and the next slash in the names of objects.
	Folders(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object; it need not exist.
	Delete(ctx context.Context, name string) error
	// Now is the time by the clock that dates the objects.
	Now(ctx context.Context) (time.Time, error)
	// URL names the storage, without credentials.
	URL() string
}

// AtMost is for Get: to the end, if that is within so many bytes. Whoever can write to the storage says how large objects are.
func AtMost(bytes int) int64 { return -int64(max(2, bytes)) }

// TooLarge is what Get answers for n when size bytes lead to the end of an object; nil if that is all right.
func TooLarge(name string, size, n int64) error {
	if n < -1 && size > -n {
		return ErrLarge.WithCause(fmt.Errorf("%s has %d bytes, %d are allowed", name, size, -n))
	}
	return nil
}

const maxName = 512

// CheckName accepts names of parts between slashes, each of letters, digits and
// "-_.", none beginning with a dot: they are the same on every storage.
func CheckName(name string) error {
	if len(name) > maxName {
		return ErrName.WithCause(fmt.Errorf("%d bytes; %d are allowed", len(name), maxName))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || strings.IndexFunc(part, notPlain) >= 0 {
			return ErrName.WithCause(fmt.Errorf("%q", name))
		}
	}
	return nil
}

func notPlain(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

const deleters = 8

// DeleteAll removes objects, several at once.
func DeleteAll(ctx context.Context, st Storage, names []string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deleters)
	for _, name := range names {
		group.Go(func() error { return st.Delete(ctx, name) })
	}
	return group.Wait()
}
