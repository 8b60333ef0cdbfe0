package flock_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"rootstream/internal/flock"
)

const runAs = "FLOCK_TEST_HOLDER"

// This binary is also the process that is killed while it has the lock.
func TestMain(m *testing.M) {
	if path := os.Getenv(runAs); path != "" {
		f, err := os.Open(path)
		if err != nil || flock.Try(f) != nil {
			os.Exit(1)
		}
		_, _ = os.Stdout.WriteString("held\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until we are killed
	}
	os.Exit(m.Run())
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestALockEndsWithTheProcessThatHasIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), runAs+"="+path)
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = holder.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len("held\n"))
	if _, err = io.ReadFull(stdout, said); err != nil {
		t.Fatal(err)
	}
	if err = flock.Try(f); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("%v: it is held", err)
	}
	if flock.Free(f) {
		t.Error("it is held, and called free")
	}
	if err = holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	if err = flock.Try(f); err != nil {
		t.Errorf("%v: its holder is gone", err)
	}
}

func TestALockIsTakenOnceAndGivenBackWhoeverElseHasTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // folders can be locked, too
	first, second := open(t, dir), open(t, dir)
	if err := flock.Try(first); err != nil {
		t.Fatal(err)
	}
	if err := flock.Try(second); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("%v: it was taken twice", err)
	}
	child, err := unix.Dup(int(first.Fd())) // as a process that is just being started has it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(child) }()
	if err := flock.Release(first); err != nil {
		t.Fatal(err)
	}
	if !flock.Free(second) {
		t.Error("it was given back, and is not free")
	}
}
