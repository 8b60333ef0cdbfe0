package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"

	"rootstream/backup/storage"
	"rootstream/errs"
	"rootstream/internal/wait"
)

var (
	errPrecondition = errors.New("the condition does not hold")
	errProgress     = errors.New("a part of the list was read")
	errRange        = errors.New("it answers with another range")
)

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

func (c Config) region() string { return cmp.Or(c.Region, os.Getenv("AWS_REGION"), "us-east-1") }

// retry makes attempts until one succeeds, fails for good, or nothing has
// succeeded for as long as patience lasts. Pauses grow, at random.
func (s *Storage) retry(ctx context.Context, doing string, attempt func(context.Context) error) error {
	end := time.Now().Add(s.cfg.Patience)
	w := s.watch(doing)
	defer w.end()
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := attempt(ctx)
		if err == nil || errors.Is(err, errProgress) {
			return err
		}
		w.failed(err)
		kind, passing := judge(err)
		left := time.Until(end)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
		}
		if !passing || left <= 0 {
			return fmt.Errorf("%s: %w", doing, described(kind, err))
		}
		_ = wait.For(ctx, min(left, pause/2+rand.N(pause))) //nolint:gosec // jitter; if ctx has ended, the next attempt says so
	}
}

func described(kind *errs.Error, err error) error {
	if kind == nil {
		return errPrecondition
	}
	if minio.ToErrorResponse(err).Code == minio.NoSuchBucket {
		return kind.WithCause(err).WithHint("create the bucket first, and look at its name and region")
	}
	return kind.WithCause(err)
}

// judge says what an error of the service means, and whether it may pass.
func judge(err error) (kind *errs.Error, passing bool) {
	switch {
	case errors.Is(err, storage.ErrLarge):
		return storage.ErrLarge, false
	case errors.Is(err, errRange):
		return storage.ErrUnreachable, false
	}
	if e := errs.Of(err); e != nil {
		return e, true
	}
	answer := minio.ToErrorResponse(err)
	switch answer.Code {
	case minio.PreconditionFailed:
		return nil, false
	case minio.NoSuchKey:
		return storage.ErrNotFound, false
	case minio.InvalidRange:
		return storage.ErrShort, false
	case "RequestTimeout", "SlowDown", "OperationAborted":
		return storage.ErrUnreachable, true
	case "QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded":
		return storage.ErrFull, false
	}
	switch status := answer.StatusCode; {
	case status == http.StatusPreconditionFailed:
		return nil, false
	case status == http.StatusInsufficientStorage:
		return storage.ErrFull, false
	case status == http.StatusNotImplemented:
		return storage.ErrDenied, false
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests:
		return storage.ErrUnreachable, true
	case status >= 300 && status < 500: // the same request will meet the same answer
		return storage.ErrDenied, false
	}
	return storage.ErrUnreachable, true
}

// newTransport gives up a connection on which nothing moves, however long a transfer takes as a whole.
func newTransport(stall time.Duration, moved *atomic.Int64) *http.Transport {
	dialer := &net.Dialer{Timeout: min(stall, 10*time.Second), KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return moving{c, stall, moved}, nil
		},
		MaxIdleConns: 64, MaxIdleConnsPerHost: 32, IdleConnTimeout: min(stall/2, time.Minute),
		TLSHandshakeTimeout: min(stall, 10*time.Second), ExpectContinueTimeout: time.Second,
		ResponseHeaderTimeout: 2 * stall, DisableCompression: true,
		WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
}

// moving is a connection that breaks when nothing moves. What is written also
// gives the answer more time: it is waited for meanwhile.
type moving struct {
	net.Conn
	stall time.Duration
	moved *atomic.Int64 // when something last did
}

func (c moving) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	c.note(n)
	return n, err
}

func (c moving) note(n int) {
	if n > 0 {
		c.moved.Store(time.Now().UnixNano())
	}
}

func (c moving) Write(b []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	c.note(n)
	return n, err
}

type dateKey struct{}

// clocked notes the date of an answer for who asked for it.
type clocked struct{ http.RoundTripper }

func (c clocked) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := c.RoundTripper.RoundTrip(r)
	if at, wanted := r.Context().Value(dateKey{}).(*time.Time); wanted && err == nil {
		*at, _ = http.ParseTime(answer.Header.Get("Date"))
	}
	return answer, err
}
