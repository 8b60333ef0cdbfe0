package pgserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rootstream/internal/proc"
	"rootstream/internal/wait"
)

const maxSocketPath = 107 // sun_path without its closing NUL, unix(7)

// ShortSocketDir returns dir, or a short stand-in when a socket's path in it would not fit the kernel's limit.
func ShortSocketDir(dir string) string {
	if len(filepath.Join(dir, ".s.PGSQL.65535")) <= maxSocketPath {
		return dir
	}
	sum := sha256.Sum256([]byte(dir))
	name := "rootstream-" + strconv.Itoa(os.Geteuid()) + "-" + hex.EncodeToString(sum[:6])
	if os.Geteuid() == 0 {
		return filepath.Join("/run", name)
	}
	return filepath.Join("/tmp", name)
}

// makeSocketDir makes the socket folder and refuses one that somebody else could swap.
func (s *Server) makeSocketDir() error {
	dir := s.cfg.SocketDir
	if err := s.account.MkdirAll(dir); err != nil {
		return ErrAccess.WithCause(err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return ErrAccess.WithCause(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || st.Uid != s.account.UID || st.Mode&0o022 != 0 {
		return ErrAccess.WithCause(fmt.Errorf("%s is not a folder of user %s alone", dir, s.account.Name))
	}
	return nil
}

// openLog opens the log for the server's user; it is a file, since a pipe would die with this process.
func (s *Server) openLog() (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(s.cfg.LogFile), 0o755); err != nil { //nolint:gosec // the file itself is private
		return nil, ErrAccess.WithCause(err)
	}
	f, err := openPlain(s.cfg.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return nil, ErrAccess.WithCause(err)
	}
	return f, nil
}

// openPlain opens a file that is nothing else. The folder may be the server's own, whose user could have put there a
// link to a file of the machine, a second name of one, or a pipe that holds us up.
func openPlain(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600) //nolint:gosec // the operator names the folder
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !info.Mode().IsRegular() || !ok || st.Nlink != 1 {
			err = fmt.Errorf("%s is not a file with one name", path)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// logSince returns what the server wrote after from, at most its last 4 KiB.
func (s *Server) logSince(from int64) string {
	f, err := openPlain(s.cfg.LogFile, os.O_RDONLY)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	const most = 4 << 10
	from = max(from, info.Size()-most)
	buf := make([]byte, max(0, info.Size()-from))
	n, _ := f.ReadAt(buf, from)
	return strings.TrimSpace(string(buf[:n]))
}

// Password returns the superuser's password from the pass file.
func (s *Server) Password() (string, error) { return s.PasswordOf(s.cfg.Superuser) }

// PasswordOf returns a user's password from the pass file; os.ErrNotExist when it holds none.
func (s *Server) PasswordOf(user string) (string, error) {
	text, err := readPrivate(s.cfg.PassFile)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		name, pass, ok := parsePass(strings.TrimRight(line, "\r\n"))
		if ok && (name == user || name == "*") {
			return pass, nil
		}
	}
	return "", fmt.Errorf("no password of %s in %s: %w", user, s.cfg.PassFile, os.ErrNotExist)
}

// ensurePass returns the password, adding a new one to the pass file on first use. It
// is on file before PostgreSQL learns it, so no crash leaves a role without its password.
func (s *Server) ensurePass(user string) (string, error) {
	pass, err := s.PasswordOf(user)
	if !errors.Is(err, os.ErrNotExist) {
		return pass, err
	}
	text, err := readPrivate(s.cfg.PassFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	var raw [24]byte
	_, _ = rand.Read(raw[:]) // never fails
	pass = base64.RawURLEncoding.EncodeToString(raw[:])
	if err = os.MkdirAll(filepath.Dir(s.cfg.PassFile), 0o700); err != nil {
		return "", ErrAccess.WithCause(err)
	}
	us, err := proc.Current()
	if err != nil {
		return "", ErrAccess.WithCause(err)
	}
	if err = us.WriteFile(s.cfg.PassFile, text+"*:*:*:"+user+":"+pass+"\n", !s.cfg.NoSync); err != nil {
		return "", fmt.Errorf("write pass file: %w", err)
	}
	return pass, nil
}

// readPrivate reads a small file and refuses one that others can read.
func readPrivate(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", ErrAccess.WithCause(fmt.Errorf("%s is open to others (mode %v)", path, info.Mode().Perm())).
			WithHint("chmod 600 " + path)
	}
	raw, err := os.ReadFile(path) //nolint:gosec // the operator's own folder
	return string(raw), err
}

// parsePass reads host:port:database:user:password with backslash escapes (libpq, "The Password File").
func parsePass(line string) (user, pass string, ok bool) {
	var fields [5][]byte
	at := 0
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '#' && i == 0:
			return "", "", false
		case c == '\\' && i+1 < len(line):
			i++
			fields[at] = append(fields[at], line[i])
		case c == ':' && at < len(fields)-1:
			at++
		default:
			fields[at] = append(fields[at], c)
		}
	}
	const userField, passField = 3, 4
	return string(fields[userField]), string(fields[passField]), at == passField && len(fields[passField]) > 0
}

const (
	confName    = "rootstream.conf"
	includeLine = "include_if_exists '" + confName + "'"
)

// writeConf puts Params into a file of our own that postgresql.conf includes; ALTER SYSTEM still overrides it.
func (s *Server) writeConf() error {
	names := make([]string, 0, len(s.cfg.Params))
	for name := range s.cfg.Params {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString("# Written at each start. Change settings with ALTER SYSTEM or in postgresql.conf after the include.\n")
	for _, name := range names {
		fmt.Fprintf(&b, "%s = %s\n", name, quoteParam(s.cfg.Params[name]))
	}
	path := filepath.Join(s.cfg.DataDir, confName)
	if err := s.account.WriteFile(path, b.String(), false); err != nil {
		return ErrAccess.WithCause(err)
	}
	return s.includeConf()
}

func (s *Server) includeConf() error {
	main := filepath.Join(s.cfg.DataDir, "postgresql.conf")
	raw, err := s.account.ReadFile(main)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return ErrAccess.WithCause(err)
	}
	if strings.Contains(string(raw), "\n"+includeLine) || strings.HasPrefix(string(raw), includeLine) {
		return nil
	}
	text := strings.TrimRight(string(raw), "\n") + "\n" + includeLine + "\n"
	if err := s.account.WriteFile(main, strings.TrimLeft(text, "\n"), !s.cfg.NoSync); err != nil {
		return ErrAccess.WithCause(err)
	}
	return nil
}

// quoteParam writes a value as postgresql.conf reads it: backslash is an escape there too.
func quoteParam(v string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(v) + "'"
}

// Status is what a postmaster says about itself in postmaster.pid.
type Status struct {
	PID        int
	Standalone bool // single-user mode, not a postmaster
	DataDir    string
	StartedAt  time.Time
	Port       int
	SocketDir  string
	Listen     string
	State      string // starting, ready, standby, stopping
}

// ReadStatus reads the postmaster.pid of a data folder; ErrNotRunning when there is none.
func ReadStatus(dataDir string) (Status, error) {
	f, err := openPlain(filepath.Join(dataDir, "postmaster.pid"), os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return Status{}, ErrNotRunning
	}
	if err != nil {
		return Status{}, ErrAccess.WithCause(err)
	}
	defer func() { _ = f.Close() }()
	const most = 64 << 10
	raw, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return Status{}, ErrAccess.WithCause(err)
	}
	return parseStatus(string(raw))
}

// parseStatus reads the lines of postmaster.pid (src/include/utils/pidfile.h); the later ones come one by one.
func parseStatus(text string) (Status, error) {
	lines := strings.Split(text, "\n")
	line := func(i int) string {
		if i < len(lines) {
			return strings.TrimSpace(lines[i])
		}
		return ""
	}
	pid, err := strconv.Atoi(line(0))
	if err != nil || pid == 0 {
		return Status{}, ErrNotRunning.WithCause(errors.New("postmaster.pid names no process"))
	}
	st := Status{PID: max(pid, -pid), Standalone: pid < 0, DataDir: line(1), SocketDir: line(4), Listen: line(5), State: line(7)}
	if at, err := strconv.ParseInt(line(2), 10, 64); err == nil {
		st.StartedAt = time.Unix(at, 0)
	}
	st.Port, _ = strconv.Atoi(line(3))
	return st, nil
}

// awaitBurial gives init the moment it needs to take leave of a killed postmaster: until then PostgreSQL believes the
// lock file that it left.
func awaitBurial(ctx context.Context, dataDir string) {
	st, err := ReadStatus(dataDir)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, orphanWait)
	defer cancel()
	for proc.Unburied(st.PID) && wait.For(ctx, pollEvery) == nil {
	}
}

// Said returns the last lines of the server's log, as far as it writes it itself.
func (s *Server) Said() string { return lastLines(s.logSince(0), 6) }
