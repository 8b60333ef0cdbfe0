// Package pgserver runs a PostgreSQL server process on this machine.
//
// [Find] looks for installed binaries; a [Server] made by [New] belongs to
// one data folder: [Server.Init] creates it, [Server.Start] starts a
// postmaster or fails with a reason, [Server.Attach] takes over one that a
// predecessor left running, [Server.Stop] ends it, [Server.Done] tells of its
// death. The postmaster outlives this process unless Config.DieWithParent.
// [Throwaway] makes a short-lived server for tests and restore proofs.
//
// It owns no table and, per started server, one goroutine that waits for the
// postmaster. The superuser's password rests in a pass file (0600) and is
// never an argument, an environment variable or a log line. Supervision lives
// in devstack, connection pools in postgres.
package pgserver

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"rootstream/errs"
	"rootstream/internal/proc"
)

// Failures a caller can tell apart.
var (
	ErrNotInstalled = errs.New(errs.Precondition, "postgres_not_installed", "no suitable PostgreSQL is installed")
	ErrNotEmpty     = errs.New(errs.Conflict, "data_folder_not_empty", "the data folder is not empty and holds no PostgreSQL data")
	ErrWrongVersion = errs.New(errs.Conflict, "data_folder_version", "the data folder belongs to another PostgreSQL version")
	ErrNoData       = errs.New(errs.NotFound, "data_folder_missing", "the data folder holds no PostgreSQL data")
	ErrNotRunning   = errs.New(errs.Unavailable, "postgres_not_running", "PostgreSQL is not running")
	ErrRunning      = errs.New(errs.Conflict, "postgres_running", "a PostgreSQL server runs on this data folder")
	ErrPortTaken    = errs.New(errs.Conflict, "port_taken", "the address cannot be had")
	ErrOrphans      = errs.New(errs.Conflict, "postgres_orphans", "processes of a killed PostgreSQL still use the data folder")
	ErrAccess       = errs.New(errs.Forbidden, "data_folder_access", "PostgreSQL's user cannot use the data folder")
	ErrStart        = errs.New(errs.Unavailable, "postgres_start", "PostgreSQL did not start")
)

// ErrLeave is the cause to cancel a Start with so that the postmaster goes on starting without us.
var ErrLeave = errors.New("the postmaster is left to a successor")

// Config says where a server lives and how it runs. Installation and DataDir are required.
type Config struct {
	Installation  Installation
	DataDir       string            // made by Init, mode 0700
	SocketDir     string            // empty means DataDir's sibling "run", or a short folder when that is too long
	Port          int               // TCP port on Listen and number in the socket's name; 0 means socket only
	Listen        string            // listen_addresses; empty with a Port means 127.0.0.1
	RunAs         string            // user of the processes when this program runs as root; empty means postgres
	Params        map[string]string // written to rootstream.conf in the data folder at each start
	LogFile       string            // what the server says; empty means DataDir + ".log"
	Superuser     string            // empty means postgres
	PassFile      string            // pgpass format, made by Init; empty means DataDir + ".pgpass"
	TrustLocal    bool              // let whoever can enter SocketDir in without a password (tests)
	NoSync        bool              // do not wait for the disk in Init (tests)
	DieWithParent bool              // stop at once when this process dies (tests)
	Foreign       bool              // somebody else's cluster: it runs with its own settings, address included, and none are written
	Logger        *slog.Logger      // nil means slog.Default
}

const defaultPort = 5432 // names the socket of a server without a TCP port

// Server is one data folder and the postmaster on it, if any.
type Server struct {
	cfg     Config
	account proc.Account

	mu   sync.Mutex
	run  *running // nil before Start or Attach
	addr address
}

type address struct {
	socketDir string
	port      int
	listen    string
}

// New checks cfg and returns its server. It touches no file and starts nothing.
func New(cfg Config) (*Server, error) {
	var faults errs.Fields
	if cfg.Installation.BinDir == "" {
		faults.Add("installation", "is required")
	}
	if !filepath.IsAbs(cfg.DataDir) {
		faults.Add("data_dir", "must be an absolute path")
	}
	if cfg.Port < 0 || cfg.Port > 65535 {
		faults.Add("port", "must be 0 to 65535")
	}
	if cfg.Listen != "" && cfg.Port == 0 {
		faults.Add("port", "is required to listen")
	}
	checkParams(cfg.Params, &faults)
	if cfg.Foreign && (cfg.Port != 0 || len(cfg.Params) > 0) {
		faults.Add("foreign", "means that the cluster's own settings stay")
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	cfg.DataDir = filepath.Clean(cfg.DataDir)
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	account, err := accountFor(cfg.RunAs)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, account: account}
	s.addr = address{socketDir: cfg.SocketDir, port: cfg.Port, listen: cfg.Listen}
	if s.addr.port == 0 {
		s.addr.port = defaultPort
	}
	return s, nil
}

func (cfg *Config) setDefaults() error {
	if cfg.Port != 0 && cfg.Listen == "" {
		cfg.Listen = "127.0.0.1"
	}
	if cfg.Superuser == "" {
		cfg.Superuser = "postgres"
	}
	if cfg.PassFile == "" {
		cfg.PassFile = cfg.DataDir + ".pgpass"
	}
	if cfg.LogFile == "" {
		cfg.LogFile = cfg.DataDir + ".log"
	}
	if cfg.SocketDir == "" {
		cfg.SocketDir = filepath.Join(filepath.Dir(cfg.DataDir), "run")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if !roleName.MatchString(cfg.Superuser) {
		return errs.NewInvalid("superuser", "must be letters, digits and underscores")
	}
	cfg.SocketDir = ShortSocketDir(cfg.SocketDir)
	return nil
}

// Account returns the user the server's processes run as.
func (s *Server) Account() proc.Account { return s.account }

// Superuser returns the name of the server's superuser.
func (s *Server) Superuser() string { return s.cfg.Superuser }

// DataDir returns the server's data folder.
func (s *Server) DataDir() string { return s.cfg.DataDir }

// SocketDir returns the folder of the server's Unix socket.
func (s *Server) SocketDir() string { return s.address().socketDir }

// Port returns the number in the socket's name, which is also the TCP port if the server listens on TCP.
func (s *Server) Port() int { return s.address().port }

// Installation returns the binaries in use.
func (s *Server) Installation() Installation { return s.cfg.Installation }

// LogFile returns the path of the server's log.
func (s *Server) LogFile() string { return s.cfg.LogFile }

// DSN returns a connection string over the Unix socket. It names the pass file and holds no password.
func (s *Server) DSN(database string) string {
	a := s.address()
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s passfile=%s sslmode=disable",
		quoteDSN(a.socketDir), a.port, quoteDSN(s.cfg.Superuser), quoteDSN(database), quoteDSN(s.cfg.PassFile))
}

// TCPDSN is DSN over TCP; empty when the server only has its socket.
func (s *Server) TCPDSN(database string) string {
	a := s.address()
	if a.listen == "" {
		return ""
	}
	host := a.listen
	if host == "*" || host == "0.0.0.0" {
		host = "127.0.0.1"
	}
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s passfile=%s sslmode=disable",
		quoteDSN(host), a.port, quoteDSN(s.cfg.Superuser), quoteDSN(database), quoteDSN(s.cfg.PassFile))
}

func (s *Server) address() address {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

var dsnSpecial = regexp.MustCompile(`([\\'])`)

func quoteDSN(v string) string {
	if v != "" && !regexp.MustCompile(`[\s\\']`).MatchString(v) {
		return v
	}
	return "'" + dsnSpecial.ReplaceAllString(v, `\$1`) + "'"
}

func accountFor(name string) (proc.Account, error) {
	if os.Geteuid() != 0 {
		return proc.Current()
	}
	names := []string{"postgres", "pgsql", "rootstream", "nobody"}
	if name != "" {
		names = []string{name}
	}
	account, err := proc.Unprivileged(names...)
	if err != nil {
		return account, ErrAccess.WithCause(err).WithHint("useradd --system postgres")
	}
	return account, nil
}

var (
	paramName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)
	roleName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
)

func checkParams(params map[string]string, faults *errs.Fields) {
	owned := []string{"port", "listen_addresses", "unix_socket_directories", "data_directory"}
	for name, value := range params {
		switch {
		case !paramName.MatchString(name):
			faults.Add("params."+name, "is not a parameter name")
		case slices.Contains(owned, name):
			faults.Add("params."+name, "is set through Config, not Params")
		case slices.ContainsFunc([]byte(value), func(b byte) bool { return b < ' ' }):
			faults.Add("params."+name, "must not hold control characters")
		}
	}
}
