package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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

// script starts the server and takes orders until its standard input ends,
// which happens when the test process ends however it ends. Then it stops the
// server and removes its folder. Being the parent, it buries a killed server.
const script = `
if [ ! -d "$2/data" ]; then
  "$1/initdb" -D "$2/data" -U postgres -A scram-sha-256 --pwfile="$2/password" -E UTF8 --locale=C.UTF-8 -N >"$2/initdb.log" 2>&1 || exit 1
fi
bin=$1 dir=$2 port=$3
shift 3
run() {
  "$bin/postgres" -D "$dir/data" -k "$dir" -p "$port" -c listen_addresses=127.0.0.1 -c fsync=off \
    -c log_min_messages=warning -c timezone=UTC "$@" >>"$dir/server.log" 2>&1 </dev/null &
  pid=$!
}
run "$@"
while read -r order; do
  case $order in
  kill) kill -KILL "$pid" 2>/dev/null; wait "$pid" ;;
  start) run "$@" ;;
  esac
done
kill -QUIT "$pid" 2>/dev/null
kill -CONT "$pid" 2>/dev/null
wait "$pid"
rm -rf "$dir"`

// process is one PostgreSQL server of this test process, with the shell that watches over it.
type process struct {
	at    address
	bin   string
	dir   string
	stdin io.WriteCloser // of the shell
	ended chan struct{}  // closed when the shell has tidied up
}

// newProcess prepares a folder, a port and a password.
func newProcess() (*process, error) {
	bin, err := Binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "rspg")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &process{bin: bin, dir: dir, at: address{host: "127.0.0.1", port: port, password: rand.Text()}}
	return p, os.WriteFile(filepath.Join(dir, "password"), []byte(p.at.password), 0o600)
}

// start runs the server with settings (name=value) and waits until it answers.
func (p *process) start(settings ...string) error {
	args := []string{"-c", script, "sh", p.bin, p.dir, strconv.Itoa(p.at.port)}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	shell := exec.Command("/bin/sh", args...) //nolint:noctx // it ends with the process, not with a context
	shell.Dir = p.dir
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := dropRoot(shell, p.dir); err != nil {
		return err
	}
	var err error
	if p.stdin, err = shell.StdinPipe(); err != nil {
		return err
	}
	if err := shell.Start(); err != nil {
		return err
	}
	p.ended = make(chan struct{})
	go func() {
		_ = shell.Wait()
		close(p.ended)
	}()
	return waitReady(p.at, p.dir)
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
		<-time.After(20 * time.Millisecond)
	}
}

// Binaries finds the folder of the PostgreSQL to test with: what ROOTSTREAM_TEST_PGBIN
// names, else the newest on this machine, Debian's versioned ones first.
func Binaries() (string, error) {
	if dir := os.Getenv("ROOTSTREAM_TEST_PGBIN"); dir != "" {
		return dir, nil
	}
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
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
