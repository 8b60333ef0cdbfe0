package devstack

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"rootstream/errs"
	"rootstream/internal/proc"
	"rootstream/pgserver"
)

// Names of the children; each has a log, a record and an entry in messages.
const (
	nodeName  = "node"
	redisName = "redis"
	serveName = "serve"
)

// The database serve works in, and the role that owns it.
const (
	Database = "rootstream"
	Owner    = "rootstream"
)

// Layout is where everything of one data folder lives.
type Layout struct {
	DataDir       string
	PostgresDir   string // PostgreSQL's data folder
	RedisDir      string // Redis' data folder, with its configuration
	RunDir        string // records of running children, remembered ports
	SocketDir     string // PostgreSQL's socket; elsewhere when the path would be too long
	LogDir        string
	MailDir       string // outgoing mail as .eml files
	SecretsDir    string // passwords, 0600 each
	ClientFile    string // addresses and credentials as a configuration file, 0600
	MasterKeyFile string // seals secrets at rest, 0600
	BackupDir     string // repository of backups, unless the configuration names another
	BackupKeyFile string // opens it, 0600
	WALSpool      string // write-ahead log on its way to the repository
	LockFile      string
	NodeStatus    string // what the node process says about PostgreSQL

	PassFile        string // PostgreSQL's passwords in pgpass format
	PostgresDSNFile string // URL of the database as its owner, with password
	AdminDSNFile    string // URL of the database as superuser, with password
	RedisURLFile    string // URL of Redis, with password
	RedisConf       string
	Listen          string // host:port of serve
	URL             string // where serve is reached from this machine
	RedisPort       int    // 0 until the first Run has chosen one
	Postgres        pgserver.Installation
	RedisServer     string // found by Run: a host that only runs a node needs none
	runAs           string
	redisFlag       string
}

// Plan says where everything of cfg lives and which programs run it. It only
// reads: ports that an earlier Run chose are remembered in the folder.
func Plan(cfg Config) (Layout, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Layout{}, err
	}
	l := layoutOf(cfg)
	if cfg.PostgresBin != "" {
		l.Postgres, err = pgserver.At(cfg.PostgresBin)
	} else {
		l.Postgres, err = pgserver.FindFor(l.PostgresDir, pgserver.MinMajor)
	}
	if err != nil {
		return Layout{}, err
	}
	l.redisFlag = cfg.RedisServer
	l.RedisPort, err = readPorts(l.portsFile())
	return l, err
}

func layoutOf(cfg Config) Layout {
	in := func(parts ...string) string { return filepath.Join(append([]string{cfg.DataDir}, parts...)...) }
	return Layout{
		DataDir: cfg.DataDir, PostgresDir: in("postgres"), RedisDir: in("redis"), RunDir: in("run"),
		SocketDir: pgserver.ShortSocketDir(in("run", "postgres")), LogDir: in("logs"), MailDir: in("mail"),
		SecretsDir: in("secrets"), ClientFile: in("client.yaml"), MasterKeyFile: in("master.key"), LockFile: in("lock"),
		BackupDir: in("backups"), BackupKeyFile: in("backup.key"), WALSpool: in("wal"),
		NodeStatus: in("run", "node.status"), PassFile: in("secrets", "pgpass"),
		PostgresDSNFile: in("secrets", "postgres.dsn"), AdminDSNFile: in("secrets", "postgres-admin.dsn"),
		RedisURLFile: in("secrets", "redis.url"), RedisConf: in("redis", "redis.conf"),
		Listen: cfg.Listen, URL: urlOf(cfg.Listen, cfg.TLS), runAs: cfg.RunAs,
	}
}

func (l Layout) portsFile() string { return filepath.Join(l.RunDir, "ports.json") }

func (l Layout) logFile(child string) string { return filepath.Join(l.LogDir, child+".log") }

// Node returns how the node process of this folder runs PostgreSQL.
func (l Layout) Node() NodeConfig {
	return NodeConfig{
		Server: pgserver.Config{
			Installation: l.Postgres, DataDir: l.PostgresDir, SocketDir: l.SocketDir, RunAs: l.runAs,
			LogFile: l.logFile("postgres"), PassFile: l.PassFile, Params: PostgresParams(),
		},
		StatusFile: l.NodeStatus, LockFile: filepath.Join(l.RunDir, "node.lock"), Database: Database, Owner: Owner,
		DSNFile: l.PostgresDSNFile, AdminDSNFile: l.AdminDSNFile, layout: &l,
	}
}

// PostgresParams returns the settings of a database this project runs.
func PostgresParams() map[string]string {
	return map[string]string{
		"wal_level": "replica",
		// The node streams the log into the repository as it is written. archive_mode needs a
		// restart to change, archive_command only a reload: it is on, so that a command can be set.
		"archive_mode":                        "on",
		"archive_command":                     "/bin/true",
		"max_slot_wal_keep_size":              "10GB", // a repository that is away for long must not fill the disk
		"max_connections":                     "200",
		"shared_buffers":                      "128MB",
		"max_wal_size":                        "1GB",
		"timezone":                            "UTC",
		"log_timezone":                        "UTC",
		"log_line_prefix":                     "%m [%p] %q%u@%d ",
		"log_checkpoints":                     "on",
		"log_lock_waits":                      "on",
		"logging_collector":                   "off", // one log file, rotated by us
		"idle_in_transaction_session_timeout": "5min",
	}
}

// Settings returns what clients and serve need, by key of the configuration file. It holds passwords.
func (l Layout) Settings() (map[string]string, error) {
	dsn, err := os.ReadFile(l.PostgresDSNFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, ErrAccess.WithCause(err)
	}
	admin, err := os.ReadFile(l.AdminDSNFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, ErrAccess.WithCause(err)
	}
	redis, err := os.ReadFile(l.RedisURLFile)
	if err != nil {
		return nil, ErrAccess.WithCause(err)
	}
	return map[string]string{
		"backup.repo":          "file://" + l.BackupDir,
		"backup.key_file":      l.BackupKeyFile,
		"backup.dsn":           strings.TrimSpace(string(admin)),
		"backup.pgdata":        l.PostgresDir,
		"backup.spool":         l.WALSpool,
		"http.listen":          l.Listen,
		"http.public_url":      l.URL,
		"keys.master_key_file": l.MasterKeyFile,
		"mail.dir":             l.MailDir,
		"postgres.dsn":         strings.TrimSpace(string(dsn)),
		"redis.url":            strings.TrimSpace(string(redis)),
	}, nil
}

func urlOf(listen string, tls bool) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	scheme := "http"
	if tls {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// makeFolders makes what is missing. As root, other users pass through the data folder but cannot list it.
func (l Layout) makeFolders() error {
	if err := os.MkdirAll(filepath.Dir(l.DataDir), 0o755); err != nil { //nolint:gosec // the data folder itself is private
		return ErrAccess.WithCause(err)
	}
	open := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		open = 0o711
	}
	for _, f := range []struct {
		path string
		mode os.FileMode
	}{{l.DataDir, open}, {l.RunDir, open}, {l.LogDir, 0o700}, {l.MailDir, 0o700}, {l.SecretsDir, 0o700}} {
		err := os.Mkdir(f.path, f.mode)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return ErrAccess.WithCause(err)
		}
		if err == nil {
			err = os.Chmod(f.path, f.mode) // whatever the umask
		} else if err = ownFolder(f.path); err == nil && f.path == l.DataDir {
			err = l.checkOurs()
		}
		if err != nil {
			return ErrAccess.WithCause(err)
		}
	}
	return nil
}

// ownFolder refuses a folder in which somebody else may put things: it was perhaps made for us to find.
func ownFolder(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir() || !ok:
		return fmt.Errorf("%s is not a folder", path)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user (uid %d)", path, st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("others may write to %s (mode %v): chmod go-w %s", path, info.Mode().Perm(), path)
	}
	return nil
}

// checkOurs refuses a folder that holds other things, so that a mistyped path harms nothing.
func (l Layout) checkOurs() error {
	if _, err := os.Stat(l.LockFile); errors.Is(err, os.ErrNotExist) {
		entries, err := os.ReadDir(l.DataDir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if name := e.Name(); name != "lost+found" && !l.ours(name) {
				return fmt.Errorf("%s holds %s, which is not ours: choose an empty folder", l.DataDir, name)
			}
		}
	}
	probe, err := os.CreateTemp(l.DataDir, ".probe-*")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

func (l Layout) ours(name string) bool {
	for _, p := range []string{
		l.PostgresDir, l.PostgresDir + ".init", l.RedisDir, l.RunDir, l.LogDir, l.MailDir, l.SecretsDir,
		l.ClientFile, l.MasterKeyFile, l.LockFile, l.BackupDir, l.BackupKeyFile, l.WALSpool,
	} {
		if name == filepath.Base(p) || strings.HasPrefix(name, filepath.Base(p)+".") {
			return true
		}
	}
	return false
}

// writeSecrets makes the master key and Redis' password on first use.
func (l Layout) writeSecrets() error {
	if _, err := os.Stat(l.MasterKeyFile); errors.Is(err, os.ErrNotExist) {
		// A new key cannot open what an old one sealed: with data there, a lost key is not replaced.
		if _, err := pgserver.DataVersion(l.PostgresDir); errors.Is(err, pgserver.ErrNoData) {
			if err := writeNew(l.MasterKeyFile, randomText()+"\n"); err != nil {
				return ErrAccess.WithCause(err)
			}
		}
	}
	if err := l.writeBackupKey(); err != nil {
		return err
	}
	pass, err := l.redisPassword()
	if errors.Is(err, os.ErrNotExist) {
		pass = randomText()
		err = writeNew(l.redisPassFile(), pass+"\n")
	}
	if err != nil {
		return ErrAccess.WithCause(err)
	}
	url := fmt.Sprintf("redis://:%s@127.0.0.1:%d/0\n", pass, l.RedisPort)
	return replace(l.RedisURLFile, url)
}

// writeBackupKey makes the key of the repository, unless there is a repository, which another key opens.
func (l Layout) writeBackupKey() error {
	for _, path := range []string{l.BackupKeyFile, filepath.Join(l.BackupDir, "repo.json")} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return nil // who uses it will say what is wrong with it
		}
	}
	if err := writeNew(l.BackupKeyFile, randomText()+"\n"); err != nil {
		return ErrAccess.WithCause(err)
	}
	return nil
}

func (l Layout) redisPassFile() string { return filepath.Join(l.SecretsDir, "redis.password") }

func (l Layout) redisPassword() (string, error) {
	raw, err := os.ReadFile(l.redisPassFile())
	return strings.TrimSpace(string(raw)), err
}

// writeClientFile writes the settings as YAML.
func (l Layout) writeClientFile() error {
	settings, err := l.Settings()
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("# Written by rootstream up at each start: how to reach this stack. Keep it private.\n")
	for _, section := range []string{"backup", "http", "keys", "mail", "postgres", "redis"} {
		b.WriteString(section + ":\n")
		for _, key := range []string{"repo", "key_file", "listen", "public_url", "master_key_file", "dir", "dsn", "pgdata", "spool", "url"} {
			if v := settings[section+"."+key]; v != "" {
				b.WriteString("  " + key + ": " + quoteYAML(v) + "\n")
			}
		}
	}
	return replace(l.ClientFile, b.String())
}

// quoteYAML writes a single-quoted scalar, in which only the quote itself is special.
func quoteYAML(v string) string { return "'" + strings.ReplaceAll(v, "'", "''") + "'" }

func randomText() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return base64.RawURLEncoding.EncodeToString(raw)
}

func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // below the data folder
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// replace writes a private file in one step.
func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return ErrAccess.WithCause(err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return ErrAccess.WithCause(err)
	}
	return nil
}

type ports struct {
	Redis int `json:"redis"`
}

func readPorts(path string) (int, error) {
	raw, err := os.ReadFile(path) //nolint:gosec // below the data folder
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, ErrAccess.WithCause(err)
	}
	var p ports
	if err := json.Unmarshal(raw, &p); err != nil || p.Redis < 0 || p.Redis > 65535 {
		return 0, nil //nolint:nilerr // a damaged memory is no memory: a new port is chosen
	}
	return p.Redis, nil
}

func writePorts(path string, redis int) error {
	return replace(path, `{"redis":`+strconv.Itoa(redis)+"}\n")
}

func redisAccount() (proc.Account, error) {
	account, err := proc.Unprivileged("redis", "valkey", "nobody")
	if err != nil {
		return account, ErrAccess.WithCause(err)
	}
	return account, nil
}

// invalidListen explains why an address cannot be bound.
func invalidListen(listen string, err error) *errs.Error {
	return ErrBadListen.WithCause(fmt.Errorf("%s: %w", listen, err))
}
