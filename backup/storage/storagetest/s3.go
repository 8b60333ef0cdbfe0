package storagetest

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The credentials of servers that S3 starts.
const (
	AccessKey = "rootstream"
	SecretKey = "rootstream-secret"
	Bucket    = "backups"
)

// S3 starts a real S3 server (versitygw) with an empty bucket, and returns its
// address and the folder that holds the bucket. It ends with the test.
func S3(tb testing.TB) (address, folder string) {
	tb.Helper()
	program, err := gateway()
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	folder = filepath.Join(dir, "data", Bucket)
	if err = errors.Join(os.MkdirAll(folder, 0o700), os.MkdirAll(filepath.Join(dir, "meta"), 0o700)); err != nil {
		tb.Fatal(err)
	}
	for range 20 {
		address = freeAddress(tb)
		if start(tb, program, address, dir) {
			return address, folder
		}
	}
	tb.Fatal("versitygw does not start")
	return "", ""
}

// gateway finds the program: what make test has built, or one on the path.
func gateway() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		program := filepath.Join(dir, "bin", "versitygw")
		if _, err := os.Stat(program); err == nil {
			return program, nil
		}
	}
	if program, err := exec.LookPath("versitygw"); err == nil {
		return program, nil
	}
	return "", errors.New("versitygw is missing: run scripts/install-deps.sh test")
}

func freeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// start reports whether the server answers; if not, somebody else may have the port.
func start(tb testing.TB, program, address, dir string) bool {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--access", AccessKey, "--secret", SecretKey, "--port", address, "--quiet",
		"posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	if err := cmd.Start(); err != nil {
		cancel()
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed below
		close(ended)
	}()
	tb.Cleanup(func() {
		cancel()
		<-ended
	})
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		select {
		case <-ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
		if c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address); err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}
