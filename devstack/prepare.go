package devstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rootstream/internal/proc"
	"rootstream/internal/wait"
	"rootstream/pgserver"
)

// prepare checks what can be checked before anything starts, and writes the
// files of the folder. The lock is held and leftovers are gone.
func prepare(ctx context.Context, cfg Config, l *Layout) error {
	if err := checkDisk(cfg.DataDir, cfg.MinFree); err != nil {
		return err
	}
	server, err := pgserver.New(l.Node().Server)
	if err != nil {
		return err
	}
	if err = letPass(ctx, cfg.Logger, l.DataDir, server.Account()); err != nil {
		return err
	}
	redis, err := redisAccount()
	if err != nil {
		return err
	}
	if err = letPass(ctx, cfg.Logger, l.DataDir, redis); err != nil {
		return err
	}
	if _, err = server.Initialized(); err != nil { // another version, foreign files
		return err
	}
	if l.Listen, err = awaitListen(ctx, cfg.Listen); err != nil {
		return err
	}
	l.URL = urlOf(l.Listen, cfg.TLS)
	if err = choosePorts(ctx, cfg.Logger, l); err != nil {
		return err
	}
	if err = l.writeSecrets(); err != nil {
		return err
	}
	if _, err = os.Stat(l.MasterKeyFile); err != nil {
		cfg.Logger.WarnContext(ctx, "the master key is missing although there is data; put it back, sealed features stay off until then",
			"file", l.MasterKeyFile)
	}
	return l.writeRedisConf()
}

// letPass makes sure account can enter dir. The data folder itself is ours to
// open for passing through, and so are our folders among the temporary files; others' are not.
func letPass(ctx context.Context, logger *slog.Logger, dir string, account proc.Account) error {
	for {
		blocked, err := account.Blocked(dir)
		if err != nil {
			return ErrAccess.WithCause(err)
		}
		if blocked == "" {
			return nil
		}
		temporary := strings.HasPrefix(blocked, filepath.Clean(os.TempDir())+string(filepath.Separator))
		info, err := os.Stat(blocked)
		if err != nil {
			return ErrAccess.WithCause(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if (blocked != dir && !temporary) || !ok || int(st.Uid) != os.Geteuid() {
			return ErrAccess.WithCause(fmt.Errorf("user %s cannot enter %s", account.Name, blocked)).
				WithHint("choose another data folder, or let that user pass: setfacl -m u:" + account.Name + ":x " + blocked)
		}
		logger.WarnContext(ctx, "letting other users pass through a folder", "folder", blocked, "user", account.Name)
		if err := os.Chmod(blocked, info.Mode().Perm()|0o011); err != nil {
			return ErrAccess.WithCause(err)
		}
	}
}

// checkDisk refuses a nearly full disk: PostgreSQL would stop on it in the middle of things.
func checkDisk(dir string, need uint64) error {
	free, _, err := diskSpace(dir)
	if err != nil {
		return ErrAccess.WithCause(err)
	}
	if free < need {
		return ErrDiskFull.WithCause(fmt.Errorf("%s has %d MiB free, %d MiB are needed", dir, free>>20, need>>20)).
			WithHint("free some space, or choose a data folder on another disk")
	}
	return nil
}

// diskSpace returns what this user may still write, and the size of the disk.
func diskSpace(dir string) (free, size uint64, err error) {
	var st unix.Statfs_t
	for { // the folder may not exist yet
		err = unix.Statfs(dir, &st)
		if !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	block := uint64(st.Bsize) //nolint:gosec // never negative
	return st.Bavail * block, st.Blocks * block, nil
}

// awaitListen is checkListen, but waits a moment for the address: a predecessor that was killed has it until it has ended.
func awaitListen(ctx context.Context, listen string) (string, error) {
	for end := time.Now().Add(time.Second); ; {
		address, err := checkListen(ctx, listen)
		if !errors.Is(err, ErrPortTaken) || time.Now().After(end) || wait.For(ctx, 50*time.Millisecond) != nil {
			return address, err
		}
	}
}

// checkListen returns the address serve will listen on, or why it cannot.
func checkListen(ctx context.Context, listen string) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "", ErrPortTaken.WithCause(fmt.Errorf("%s is used by %s", listen, portOwner(listen))).
			WithHint("stop that process, or choose another address with --listen")
	case errors.Is(err, syscall.EACCES):
		return "", invalidListen(listen, err).WithHint("ports below 1024 need root; choose a higher one with --listen")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "", invalidListen(listen, err).WithHint("this machine does not have that address; use 127.0.0.1 or 0.0.0.0")
	case err != nil:
		return "", invalidListen(listen, err)
	}
	defer func() { _ = l.Close() }()
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port != "0" {
		return listen, err
	}
	_, port, err = net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port), err
}

// choosePorts keeps Redis' port from the last time, unless a stranger has it now.
func choosePorts(ctx context.Context, logger *slog.Logger, l *Layout) error {
	if l.RedisPort != 0 {
		address := fmt.Sprintf("127.0.0.1:%d", l.RedisPort)
		_, err := checkListen(ctx, address)
		if err == nil {
			return nil
		}
		logger.WarnContext(ctx, "the port of redis is taken, choosing another", "port", l.RedisPort, "owner", portOwner(address))
	}
	port, err := pgserver.FreePort(ctx)
	if err != nil {
		return err
	}
	l.RedisPort = port
	return writePorts(l.portsFile(), port)
}

// portOwner names the process that listens on address, as far as this user may see.
func portOwner(address string) string {
	pid := portOwnerPID(address)
	if pid == 0 {
		return "a process of another user"
	}
	name, _ := proc.Command(pid)
	return fmt.Sprintf("process %d (%s)", pid, name)
}

// portOwnerPID returns the process that listens on address; 0 when this user cannot see it.
func portOwnerPID(address string) int {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		raw, err := os.ReadFile(table) //nolint:gosec // two constants
		if err != nil {
			continue
		}
		for _, inode := range listeners(string(raw), port) {
			sockets["socket:["+inode+"]"] = true
		}
	}
	for _, pid := range proc.List() {
		if ownsSocket(pid, sockets) {
			return pid
		}
	}
	return 0
}

// listeners returns the inodes of the listening sockets of a port in /proc/net/tcp (proc_net_tcp.txt).
func listeners(table string, port uint64) []string {
	const local, state, inode, listening = 1, 3, 9, "0A"
	var found []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) <= inode || f[state] != listening {
			continue
		}
		_, hex, _ := strings.Cut(f[local], ":")
		if p, err := strconv.ParseUint(hex, 16, 16); err == nil && p == port {
			found = append(found, f[inode])
		}
	}
	return found
}

func ownsSocket(pid int, sockets map[string]bool) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && sockets[target] {
			return true
		}
	}
	return false
}
