package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"time"

	"github.com/redis/rueidis"

	"rootstream/cache"
)

// The environment that makes this program be a floor: a handler that only reads
// the body, or one that then reads from the Redis at the address what a token is kept under.
const (
	floorEnv = "RSBENCH_FLOOR"
	bareHTTP = "http"
)

const floorLine = "the floor listens on "

// floor starts this program as the handler that only reads the body.
func (s *stack) floor(ctx context.Context) (*server, error) { return s.startFloor(ctx, bareHTTP) }

// redisFloor starts it as the handler that also does one GET.
func (s *stack) redisFloor(ctx context.Context) (*server, error) { return s.startFloor(ctx, s.redisAt) }

func (s *stack) startFloor(ctx context.Context, kind string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self) //nolint:gosec // this program
	cmd.Env = append(os.Environ(), floorEnv+"="+kind)
	cmd.Stderr = s.stderr
	c, err := startChild(ctx, cmd, floorLine)
	if err != nil {
		return nil, err
	}
	return &server{child: c, addr: c.line[len(floorLine):]}, nil
}

// runFloor is a floor: http.Server as serve sets it up, and a handler that
// answers nothing. Garbage is collected as rarely as in a process that holds a
// large cache.
func runFloor(stdout io.Writer) int {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(256 << 20)
	handler := http.HandlerFunc(readBody)
	if at := os.Getenv(floorEnv); at != bareHTTP {
		client, err := bareClient(at)
		if err != nil {
			return 1
		}
		handler = readRedis(client)
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 1
	}
	_, _ = io.WriteString(stdout, floorLine+l.Addr().String()+"\n")
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 25 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
	}
	_ = srv.Serve(l) // until it is killed
	return 0
}

func readBody(w http.ResponseWriter, r *http.Request) {
	if _, err := io.ReadAll(r.Body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
}

// readRedis does one GET for each request, of the key of the token in the body, and does nothing with what it gets.
// A context that cannot end is what the client is fastest with.
func readRedis(client rueidis.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		token := bytes.TrimSuffix(bytes.TrimPrefix(body, bodyStart), bodyEnd)
		if err == nil {
			err = client.Do(context.WithoutCancel(r.Context()), client.B().Get().Key(cache.SessionView(sha256.Sum256(token))).Build()).Error()
		}
		if err != nil && !rueidis.IsRedisNil(err) { // what another server has not put there costs a GET all the same
			w.WriteHeader(http.StatusBadRequest)
		}
	}
}
