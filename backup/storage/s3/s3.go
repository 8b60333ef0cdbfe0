// Package s3 is a storage in a bucket of any service that speaks S3, with
// conditional writes (If-None-Match and If-Match on PUT).
//
// Calls that fail for a reason that may pass are made again, until nothing has
// succeeded for [Config.Patience]; a connection on which nothing moves for
// [Config.Stall] is given up. The HTTP client's own goroutines end with Close.
// The door is [Open].
package s3

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"rootstream/backup/storage"
	"rootstream/secret"
)

// Config says where the bucket is and how to get in.
type Config struct {
	Bucket          string
	Prefix          string        // of all names; may be empty
	Endpoint        string        // http(s)://host[:port]; "" means AWS
	Region          string        // "" means AWS_REGION, else us-east-1
	PathStyle       bool          // the bucket is in the path, not in the host's name
	AccessKey       string        // "" means the environment, then CredentialsFile, then the machine's role
	SecretKey       secret.Secret // with AccessKey
	CredentialsFile string        // in AWS's form; "" means ~/.aws/credentials
	Stall           time.Duration // 0 means 30 s
	Patience        time.Duration // 0 means 2 min
	Logger          *slog.Logger  // is told when a call takes long; nil means slog.Default
}

// Storage is a bucket, or a part of one. It is safe for concurrent use.
type Storage struct {
	cfg       Config
	client    *minio.Client
	core      minio.Core
	transport *http.Transport
	prefix    string

	moved, told atomic.Int64 // when something was last read or written, and the log was last told of waiting
}

// Open makes a storage of a bucket. It asks the service nothing yet.
func Open(cfg Config) (*Storage, error) {
	cfg.Endpoint = cmp.Or(cfg.Endpoint, "https://s3.amazonaws.com")
	cfg.Stall = cmp.Or(cfg.Stall, 30*time.Second)
	cfg.Patience = cmp.Or(cfg.Patience, 2*time.Minute)
	prefix := strings.Trim(cfg.Prefix, "/")
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return nil, storage.ErrName.WithCause(errors.New("the endpoint of S3 looks like https://host:port"))
	}
	if prefix != "" {
		if err = storage.CheckName(prefix); err != nil {
			return nil, err
		}
		prefix += "/"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Storage{cfg: cfg, prefix: prefix}
	s.transport = newTransport(cfg.Stall, &s.moved)
	lookup := minio.BucketLookupAuto
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	s.client, err = minio.New(u.Host, &minio.Options{
		Creds: cfg.credentials(), Secure: u.Scheme == "https", Region: cfg.region(), BucketLookup: lookup,
		Transport: clocked{s.transport}, MaxRetries: 1,
	})
	if err != nil {
		return nil, storage.ErrName.WithCause(fmt.Errorf("%s: %w", cfg.Endpoint, err))
	}
	s.core = minio.Core{Client: s.client}
	return s, nil
}

func (c Config) credentials() *credentials.Credentials {
	if c.AccessKey != "" {
		return credentials.NewStaticV4(c.AccessKey, c.SecretKey.Reveal(), "")
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{Filename: c.CredentialsFile}, &credentials.IAM{},
	})
}

// Close lets go of idle connections.
func (s *Storage) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// URL names the bucket and the prefix.
func (s *Storage) URL() string {
	return strings.TrimSuffix("s3://"+s.cfg.Bucket+"/"+s.prefix, "/")
}

func options() minio.PutObjectOptions {
	return minio.PutObjectOptions{DisableMultipart: true, ContentType: "application/octet-stream"}
}

// Put creates an object.
func (s *Storage) Put(ctx context.Context, name string, body []byte) error {
	opts := options()
	opts.SetMatchETagExcept("*")
	_, err := s.put(ctx, name, body, opts)
	if errors.Is(err, errPrecondition) || errors.Is(err, storage.ErrInDoubt) {
		err = storage.ErrExists.WithCause(errors.New(name))
	}
	return err
}

// Swap replaces an object.
func (s *Storage) Swap(ctx context.Context, name string, body []byte, tag string) (string, error) {
	opts := options()
	if tag == "" {
		opts.SetMatchETagExcept("*")
	} else {
		opts.SetMatchETag(tag)
	}
	etag, err := s.put(ctx, name, body, opts)
	if errors.Is(err, storage.ErrInDoubt) {
		return "", storage.ErrUnreachable.WithCause(fmt.Errorf("%s: %w", name, err))
	}
	if errors.Is(err, errPrecondition) || tag != "" && errors.Is(err, storage.ErrNotFound) {
		err = storage.ErrChanged.WithCause(errors.New(name))
	}
	return etag, err
}

// put writes an object on a condition. An attempt whose answer was lost may have
// succeeded: if a later one finds that the condition no longer holds, what is there decides.
func (s *Storage) put(ctx context.Context, name string, body []byte, opts minio.PutObjectOptions) (etag string, err error) {
	if err = storage.CheckName(name); err != nil {
		return "", err
	}
	attempts := 0
	err = s.retry(ctx, "write "+name, func(ctx context.Context) error {
		attempts++
		info, fault := s.client.PutObject(ctx, s.cfg.Bucket, s.prefix+name, bytes.NewReader(body), int64(len(body)), opts)
		etag = info.ETag
		return fault
	})
	if attempts == 1 || !errors.Is(err, errPrecondition) {
		return etag, err
	}
	there, fault := s.Stat(ctx, name)
	if fault != nil {
		return "", fault
	}
	found, fault := s.Get(ctx, name, 0, -1)
	if fault != nil {
		return "", fault
	}
	if !bytes.Equal(found, body) {
		return "", storage.ErrInDoubt
	}
	return there.Tag, nil
}

// Get reads a part of an object.
func (s *Storage) Get(ctx context.Context, name string, off, n int64) (body []byte, err error) {
	if err = storage.CheckName(name); err != nil {
		return nil, err
	}
	if n == 0 {
		o, fault := s.Stat(ctx, name)
		if fault == nil && off > o.Size {
			fault = short(name, off, n)
		}
		return nil, fault
	}
	var opts minio.GetObjectOptions
	switch {
	case n > 0:
		err = opts.SetRange(off, off+n-1)
	case off > 0:
		err = opts.SetRange(off, 0)
	}
	if err != nil || off < 0 {
		return nil, short(name, off, n)
	}
	err = s.retry(ctx, "read "+name, func(ctx context.Context) (err error) {
		body, err = s.read(ctx, name, n, opts)
		return err
	})
	if minio.ToErrorResponse(err).Code == minio.InvalidRange || err == nil && n > 0 && int64(len(body)) < n {
		return nil, short(name, off, n)
	}
	return body, err
}

// read makes one attempt. A body that ends before its announced length is an error of the line; one that is longer than
// it may be is not read.
func (s *Storage) read(ctx context.Context, name string, n int64, opts minio.GetObjectOptions) ([]byte, error) {
	r, info, _, err := s.core.GetObject(ctx, s.cfg.Bucket, s.prefix+name, opts)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	if info.Size < 0 || info.Size > maxObject {
		return nil, storage.ErrUnreachable.WithCause(fmt.Errorf("it announces %d bytes", info.Size))
	}
	if err = storage.TooLarge(name, info.Size, n); err != nil {
		return nil, err
	}
	if n > 0 && info.Size > n {
		return nil, errRange
	}
	body := make([]byte, info.Size)
	_, err = io.ReadFull(r, body)
	return body, err
}

const maxObject = 2 << 30

func short(name string, off, n int64) error {
	return storage.ErrShort.WithCause(fmt.Errorf("%s: %d bytes are wanted from %d on", name, n, off))
}

// Stat describes an object.
func (s *Storage) Stat(ctx context.Context, name string) (o storage.Object, err error) {
	if err = storage.CheckName(name); err != nil {
		return o, err
	}
	err = s.retry(ctx, "look at "+name, func(ctx context.Context) error {
		info, fault := s.client.StatObject(ctx, s.cfg.Bucket, s.prefix+name, minio.StatObjectOptions{})
		o = storage.Object{Name: name, Size: info.Size, Modified: info.LastModified, Tag: info.ETag}
		return fault
	})
	return o, err
}

// List goes through the objects whose names begin with prefix.
func (s *Storage) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		last, more := "", true
		for more {
			err := s.retry(ctx, "list "+prefix, func(ctx context.Context) (err error) {
				began := last
				if last, more, err = s.listFrom(ctx, prefix, last, yield); err != nil && last != began {
					err = errProgress
				}
				return err
			})
			if err != nil && !errors.Is(err, errProgress) {
				yield(storage.Object{}, err)
				return
			}
		}
	}
}

// listFrom goes on behind a key; it returns the last key read, and whether there may be more to list.
func (s *Storage) listFrom(ctx context.Context, prefix, last string, yield func(storage.Object, error) bool) (string, bool, error) {
	opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, StartAfter: last}
	for info := range s.client.ListObjectsIter(ctx, s.cfg.Bucket, opts) {
		if info.Err != nil {
			return last, true, info.Err
		}
		last = info.Key
		o := storage.Object{Name: strings.TrimPrefix(info.Key, s.prefix), Size: info.Size, Modified: info.LastModified}
		if storage.CheckName(o.Name) == nil && !yield(o, nil) {
			return last, false, nil
		}
	}
	return last, false, ctx.Err()
}

// Folders returns what stands between prefix and the next slash.
func (s *Storage) Folders(ctx context.Context, prefix string) (names []string, err error) {
	err = s.retry(ctx, "list "+prefix, func(ctx context.Context) error {
		names = nil
		for info := range s.client.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix}) {
			if info.Err != nil {
				return info.Err
			}
			if folder, is := strings.CutSuffix(strings.TrimPrefix(info.Key, s.prefix+prefix), "/"); is {
				names = append(names, folder)
			}
		}
		return nil
	})
	return names, err
}

// Delete removes an object.
func (s *Storage) Delete(ctx context.Context, name string) error {
	if err := storage.CheckName(name); err != nil {
		return err
	}
	err := s.retry(ctx, "delete "+name, func(ctx context.Context) error {
		return s.client.RemoveObject(ctx, s.cfg.Bucket, s.prefix+name, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// Now is the time that the service puts into its answers, to the second.
func (s *Storage) Now(ctx context.Context) (now time.Time, err error) {
	err = s.retry(ctx, "read the clock of "+s.URL(), func(ctx context.Context) error {
		_, fault := s.client.BucketExists(context.WithValue(ctx, dateKey{}, &now), s.cfg.Bucket)
		if fault == nil && now.IsZero() {
			fault = errors.New("the answer has no date")
		}
		return fault
	})
	return now, err
}
