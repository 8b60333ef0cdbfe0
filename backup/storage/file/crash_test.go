package file_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rootstream/backup/storage"
	"rootstream/backup/storage/file"
	"rootstream/tests/harness"
)

// Set for a program that the tests run, to the folder that it works in.
const (
	writeForever = "ROOTSTREAM_TEST_WRITE"
	fillDisk     = "ROOTSTREAM_TEST_FILL"
)

func TestMain(m *testing.M) {
	for variable, program := range map[string]func(string) error{writeForever: write, fillDisk: fill} {
		if dir := os.Getenv(variable); dir != "" {
			if err := program(dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}

// body is what the object i holds: it can be told whether all of it is there.
func body(i int) []byte {
	b := bytes.Repeat(fmt.Appendf(nil, "%d ", i), 1+i*997%40_000)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func whole(b []byte) bool {
	n := len(b) - sha256.Size
	return n > 0 && sha256.Sum256(b[:n]) == [sha256.Size]byte(b[n:])
}

// write puts objects until it is killed, and says which are acknowledged.
func write(dir string) error {
	st, err := file.Open(dir, true)
	if err != nil {
		return err
	}
	ctx, tag := context.Background(), ""
	for i := os.Getpid() * 1000; ; i++ {
		if err := st.Put(ctx, fmt.Sprintf("packs/%02x/%d", i%7, i), body(i)); err != nil {
			return err
		}
		fmt.Println(i)
		if o, err := st.Stat(ctx, "lease"); err == nil {
			tag = o.Tag
		}
		if _, err := st.Swap(ctx, "lease", body(i), tag); err != nil && !errors.Is(err, storage.ErrChanged) {
			return err
		}
	}
}

// Writers are killed at random moments: there is never a half object, and all that were acknowledged are there.
func TestAKilledWriterLeavesNoHalfObject(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(harness.Seed(t), 5))
	kills := 20
	if harness.Soak(t, 0) > 0 {
		kills = 300
	}
	acknowledged := map[string]bool{}
	for range kills {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), writeForever+"="+dir)
		pipe, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		out := bufio.NewReader(pipe)
		for n := 0; ; n++ {
			line, err := out.ReadString('\n')
			if err != nil {
				break
			}
			acknowledged[strings.TrimSuffix(line, "\n")] = true
			if n == 0 { // it is at work
				time.AfterFunc(time.Duration(rng.IntN(100_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("the writer ended by itself: %v", err)
		}
	}
	st := open(t, dir)
	there := 0
	for o, err := range st.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := st.Get(t.Context(), o.Name, 0, -1)
		if err != nil || !whole(b) {
			t.Errorf("%s is not whole: %d bytes, %v", o.Name, len(b), err)
		}
		delete(acknowledged, o.Name[strings.LastIndexByte(o.Name, '/')+1:])
		there++
	}
	if len(acknowledged) > 0 || there < kills {
		t.Errorf("%d acknowledged objects are missing, %d are there", len(acknowledged), there)
	}
}

// A program of its own fills a small file system that only it sees.
func TestAFullDiskIsSaidAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fillDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func fill(dir string) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return fmt.Errorf("mount a small file system: %w", err)
	}
	st, err := file.Open(dir, true)
	if err != nil {
		return err
	}
	ctx := context.Background()
	small := st.Put(ctx, "small", body(1))
	large := st.Put(ctx, "large", make([]byte, 2<<20))
	_, swapped := st.Swap(ctx, "lease", make([]byte, 2<<20), "")
	_, absent := st.Stat(ctx, "large")
	again := st.Put(ctx, "small2", make([]byte, 500<<10))
	if small != nil || !errors.Is(large, storage.ErrFull) || !errors.Is(swapped, storage.ErrFull) || !errors.Is(absent, storage.ErrNotFound) || again != nil {
		return fmt.Errorf("small: %v; large: %v, %v; what did not fit: %v; its room again: %v", small, large, swapped, absent, again) //nolint:errorlint // for people
	}
	return st.Close()
}

func TestFoldersAndFilesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "repo")
	st := open(t, dir)
	if err := st.Put(t.Context(), "a/b/c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Swap(t.Context(), "lease", []byte("x"), ""); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, ".drafts"))
	if err != nil || len(left) > 0 {
		t.Errorf("drafts are left: %v, %v", left, err)
	}
}

// Who can write into the folder can make us read and write nothing outside of it.
func TestLinksLeadNowhere(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": secret, "folder": outside, "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	st := open(t, dir)
	for _, name := range []string{"link", "folder/secret", "loop", "pipe"} {
		if b, err := st.Get(t.Context(), name, 0, -1); err == nil {
			t.Errorf("%s is read: %q", name, b)
		}
	}
	if err := st.Put(t.Context(), "folder/new", []byte("x")); err == nil {
		t.Error("an object is written through a link")
	}
	if _, err := st.Swap(t.Context(), "link", []byte("x"), ""); err == nil {
		t.Error("a link is swapped")
	}
	for o, err := range st.List(t.Context(), "") {
		t.Errorf("listed: %s, %v", o.Name, err)
	}
	if got, err := os.ReadDir(outside); err != nil || len(got) != 1 {
		t.Errorf("outside there is %v, %v", got, err)
	}
}

func TestARelativeFolderIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := file.Open("repo", true); !errors.Is(err, storage.ErrName) {
		t.Errorf("%v", err)
	}
	if _, err := file.Open(filepath.Join(t.TempDir(), "absent"), false); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("an absent folder: %v", err)
	}
}
