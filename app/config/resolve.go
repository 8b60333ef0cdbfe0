package config

import (
	"errors"
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
	ErrNoStack   = errs.New(errs.Invalid, "no_stack", "no stack was ever started in this data folder")
	ErrNoSuchKey = errs.New(errs.NotFound, "no_such_setting", "there is no such setting")
)

// DefaultDataDir is where `rootstream up` keeps everything unless told
// otherwise; "" for a user without a home, since anybody could make a folder
// among the temporary files first.
func DefaultDataDir() string {
	home, _ := os.UserHomeDir() // "" if there is none
	return dataDirOf(os.Geteuid(), os.Getenv("XDG_STATE_HOME"), home)
}

func dataDirOf(uid int, state, home string) string {
	switch {
	case uid == 0:
		return "/var/lib/rootstream"
	case filepath.IsAbs(state):
		return filepath.Join(state, "rootstream")
	case filepath.IsAbs(home):
		return filepath.Join(home, ".local", "state", "rootstream")
	}
	return ""
}

// clientFile is what `rootstream up` writes for the commands that follow it.
const clientFile = "client.yaml"

// Target is a running system as a command finds it.
type Target struct {
	Config  Config
	DataDir string // the folder of rootstream up that says where it is; "" when the configuration does
}

// Find loads a configuration for a command that works with a running system:
// what src says, over what dataDir/client.yaml knows. A dataDir that was named
// must have that file; the default one is asked only if src names no database.
func Find(src Source, dataDir string) (Target, error) {
	named := dataDir != ""
	if !named {
		cfg, err := Load(src)
		if err != nil || !cfg.Postgres.DSN.IsZero() {
			return Target{Config: cfg}, err
		}
		if dataDir = DefaultDataDir(); dataDir == "" {
			return Target{Config: cfg}, nil
		}
	}
	file := filepath.Join(dataDir, clientFile)
	_, missing := os.Stat(file)
	switch {
	case missing == nil:
		src.Base = file
		cfg, err := Load(src)
		return Target{cfg, dataDir}, err
	case named && errors.Is(missing, fs.ErrNotExist):
		return Target{}, ErrNoStack.WithCause(errors.New(dataDir)).WithHint("start it with: rootstream up --data " + dataDir)
	case named:
		return Target{}, errs.NewInvalid("--data", "cannot be read: "+missing.Error())
	}
	cfg, err := Load(src)
	return Target{Config: cfg}, err
}

// Resolve is Find for those who need the configuration alone.
func Resolve(src Source, dataDir string) (Config, error) {
	t, err := Find(src, dataDir)
	return t.Config, err
}

// FindSettings lists the settings that begin with one of the prefixes; all without any.
func FindSettings(prefixes []string) ([]Setting, error) {
	all := Settings()
	if len(prefixes) == 0 {
		return all, nil
	}
	found := slices.DeleteFunc(all, func(k Setting) bool {
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
