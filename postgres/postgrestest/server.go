package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// script waits for its standard input to end, which happens when the test
// process ends however it ends, then stops the server and removes its folder.
const script = `
"$1/initdb" -D "$2/data" -U postgres -A scram-sha-256 --pwfile="$2/password" -E UTF8 --locale=C.UTF-8 -N >"$2/initdb.log" 2>&1 || exit 1
"$1/postgres" -D "$2/data" -k "$2" -p "$3" -c listen_addresses=127.0.0.1 -c fsync=off -c synchronous_commit=off \
  -c full_page_writes=off -c max_connections=400 -c shared_buffers=64MB -c max_wal_size=1GB -c autovacuum_naptime=5s \
  -c log_min_messages=warning -c timezone=UTC >"$2/server.log" 2>&1 </dev/null &
pid=$!
read -r _
kill -QUIT "$pid" 2>/dev/null
wait "$pid"
rm -rf "$2"`

func start() (address, error) {
	bin, err := binaries()
	if err != nil {
		return address{}, err
	}
	dir, err := os.MkdirTemp("", "rspg")
	if err != nil {
		return address{}, err
	}
	port, err := freePort()
	if err != nil {
		return address{}, err
	}
	at := address{host: "127.0.0.1", port: port, password: rand.Text()}
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(at.password), 0o600); err != nil {
		return address{}, err
	}
	//nolint:noctx // it ends with the process, not with a context
	cmd := exec.Command("/bin/sh", "-c", script, "sh", bin, dir, strconv.Itoa(port))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := dropRoot(cmd, dir); err != nil {
		return address{}, err
	}
	if _, err := cmd.StdinPipe(); err != nil {
		return address{}, err
	}
	if err := cmd.Start(); err != nil {
		return address{}, err
	}
	go func() { _ = cmd.Wait() }()
	return at, waitReady(at, dir)
}

// dropRoot makes the server run as user postgres when the tests run as root, which PostgreSQL refuses.
func dropRoot(cmd *exec.Cmd, dir string) error {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, name := range []string{dir, filepath.Join(dir, "password")} {
		if err := os.Chown(name, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

func waitReady(at address, dir string) error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		c, err := pgx.Connect(ctx, at.dsn("postgres"))
		if err == nil {
			err = c.Close(ctx)
			cancel()
			return err
		}
		cancel()
		if time.Now().After(deadline) {
			initdb, _ := os.ReadFile(filepath.Join(dir, "initdb.log"))
			server, _ := os.ReadFile(filepath.Join(dir, "server.log"))
			return fmt.Errorf("%w\n%s\n%s", err, initdb, server)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// binaries finds the newest PostgreSQL on this machine, Debian's versioned folders first.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	sort.Slice(found, func(i, j int) bool { return majorOf(found[i]) > majorOf(found[j]) })
	if len(found) > 0 {
		return filepath.Dir(found[0]), nil
	}
	path, err := exec.LookPath("postgres")
	if err != nil {
		return "", err
	}
	path, err = filepath.EvalSymlinks(path)
	return filepath.Dir(path), err
}

func majorOf(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
