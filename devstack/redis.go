package devstack

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"rootstream/errs"
)

var redisVersion = regexp.MustCompile(`v=(\d+)\.(\d+)(\S*)`)

// findRedis returns the path of a redis-server (or valkey-server) of 6.2 or newer.
func findRedis(path string) (string, error) {
	paths := []string{path}
	if path == "" {
		paths = nil
		for _, name := range []string{"redis-server", "valkey-server"} {
			for _, dir := range []string{"", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin"} {
				if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
					paths = append(paths, found)
				}
			}
		}
	}
	seen := "none"
	for _, p := range paths {
		version, ok, err := redisVersionOf(p)
		if err != nil {
			seen = err.Error()
			continue
		}
		if ok {
			return p, nil
		}
		seen = version + " in " + p
	}
	return "", ErrNoRedis.WithCause(fmt.Errorf("looked for redis-server 6.2 or newer, found %s; install it with: %s",
		seen, redisInstallCommand())).WithHint(redisInstallCommand())
}

func redisVersionOf(path string) (version string, ok bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = os.Environ()
	out, err := cmd.Output()
	if err != nil {
		return "", false, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	m := redisVersion.FindStringSubmatch(string(out))
	if m == nil {
		return "", false, fmt.Errorf("%s does not say its version", path)
	}
	major, _ := strconv.Atoi(m[1]) // digits, by the pattern
	minor, _ := strconv.Atoi(m[2])
	return m[1] + "." + m[2] + m[3], major > 6 || (major == 6 && minor >= 2), nil
}

func redisInstallCommand() string {
	for _, c := range []struct{ tool, command string }{
		{"apt-get", "apt-get install -y redis-server"},
		{"dnf", "dnf install -y redis"},
		{"yum", "yum install -y redis"},
		{"zypper", "zypper install -y redis"},
		{"pacman", "pacman -S --noconfirm redis"},
		{"apk", "apk add redis"},
		{"brew", "brew install redis"},
	} {
		if _, err := exec.LookPath(c.tool); err == nil {
			return c.command
		}
	}
	return "apt-get install -y redis-server"
}

// writeRedisConf writes the configuration, password included, for Redis' user alone.
func (l Layout) writeRedisConf() error {
	account, err := redisAccount()
	if err != nil {
		return err
	}
	if err = account.MkdirAll(l.RedisDir); err != nil {
		return ErrAccess.WithCause(err)
	}
	if err = account.CanEnter(l.RedisDir); err != nil {
		return ErrAccess.WithCause(err).WithHint("choose another data folder, or let the user pass: chmod o+x")
	}
	pass, err := l.redisPassword()
	if err != nil {
		return ErrAccess.WithCause(err)
	}
	text := fmt.Sprintf(`# Written at each start.
bind 127.0.0.1
port %d
protected-mode yes
requirepass %s
daemonize no
dir %s
logfile ""
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
`, l.RedisPort, pass, strconv.Quote(l.RedisDir))
	if err = account.WriteFile(l.RedisConf, text, false); err != nil {
		return ErrAccess.WithCause(err)
	}
	return nil
}

func (l Layout) redisCommand() Command {
	env := []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	return Command{Path: l.RedisServer, Args: []string{l.RedisConf}, Env: env}
}

// pingRedis asks Redis, with the password, whether it takes commands: it does not while it loads its data.
func (l Layout) pingRedis(ctx context.Context) error {
	pass, err := l.redisPassword()
	if err != nil {
		return ErrAccess.WithCause(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", l.RedisPort))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if at, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(at)
	}
	if _, err := fmt.Fprintf(conn, "AUTH %s\r\nPING\r\n", pass); err != nil {
		return err
	}
	answers := bufio.NewReader(conn)
	for _, want := range []string{"+OK", "+PONG"} {
		line, err := answers.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.TrimSpace(line) != want {
			return errs.New(errs.Unavailable, "redis_not_ready", "Redis answers "+strings.TrimSpace(line))
		}
	}
	return nil
}
