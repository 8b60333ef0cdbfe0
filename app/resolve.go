package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"rootstream/errs"
)

// Errors of finding out what to talk to.
var (
	ErrNoDatabase = errs.New(errs.Invalid, "no_database", "no database is configured").
			WithHint("start one with: rootstream up — or name it with --postgres DSN, --data DIR or postgres.dsn in the configuration")
	ErrNoSuchKey = errs.New(errs.NotFound, "no_such_setting", "there is no such setting")
)

// DefaultDataDir is where `rootstream up` keeps everything unless told otherwise.
func DefaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/rootstream"
	}
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "rootstream")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprintf("rootstream-%d", os.Geteuid()))
	}
	return filepath.Join(home, ".local", "state", "rootstream")
}

// clientFile is what `rootstream up` writes for the commands that follow it.
const clientFile = "client.yaml"

// Resolve loads a configuration for a command that works with a running
// system: what src says, over what dataDir/client.yaml knows. A dataDir that
// was named must have that file; the default one may lack it.
func Resolve(src Source, dataDir string) (Config, error) {
	named := dataDir != ""
	if !named {
		dataDir = DefaultDataDir()
	}
	file := filepath.Join(dataDir, clientFile)
	_, err := os.Stat(file)
	switch {
	case err == nil && (named || !src.names("postgres.dsn")):
		src.Base = file
	case named && errors.Is(err, fs.ErrNotExist):
		return Config{}, errs.NewInvalid("--data", dataDir+" holds no running system (no "+clientFile+"): start it with rootstream up --data "+dataDir)
	case named && err != nil:
		return Config{}, errs.NewInvalid("--data", "cannot be read: "+err.Error())
	}
	return Load(src)
}

// names reports whether src itself sets a key, other than by a file.
func (s Source) names(key string) bool {
	if s.Flags[key] != "" || s.File != "" {
		return true
	}
	env := envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
	return slices.ContainsFunc(s.Env, func(pair string) bool {
		return strings.HasPrefix(pair, env+"=") || strings.HasPrefix(pair, env+"_FILE=")
	})
}

// FindKeys lists the settings that begin with one of the prefixes; all without any.
func FindKeys(prefixes []string) ([]Key, error) {
	all := Keys()
	if len(prefixes) == 0 {
		return all, nil
	}
	found := slices.DeleteFunc(all, func(k Key) bool {
		return !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(k.Path, p) })
	})
	if len(found) == 0 {
		return nil, ErrNoSuchKey.WithHint("rootstream config explain lists them all")
	}
	return found, nil
}

// Version is the version of this build.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "0.1.0-dev"
	}
	return info.Main.Version
}
