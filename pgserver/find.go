package pgserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"rootstream/errs"
)

// MinMajor is the oldest PostgreSQL this project runs on.
const MinMajor = 14

// Installation is one set of PostgreSQL binaries.
type Installation struct {
	BinDir  string
	Major   int
	Version string // as the binary says it, such as 15.14
}

// Bin returns the path of a program of the installation.
func (i Installation) Bin(name string) string { return filepath.Join(i.BinDir, name) }

// Find returns the newest installation of at least minMajor; 0 means MinMajor.
func Find(minMajor int) (Installation, error) {
	minMajor = cmp.Or(minMajor, MinMajor)
	all := Installations()
	if len(all) > 0 && all[0].Major >= minMajor {
		return all[0], nil
	}
	cause := fmt.Errorf("looked for PostgreSQL %d or newer in PATH and the usual folders, found %s; install it with: %s",
		minMajor, names(all), InstallCommand())
	return Installation{}, ErrNotInstalled.WithCause(cause).WithHint(InstallCommand())
}

// FindFor returns the installation that fits dataDir: its own major version if it holds data, else as Find.
func FindFor(dataDir string, minMajor int) (Installation, error) {
	minMajor = cmp.Or(minMajor, MinMajor)
	major, err := DataVersion(dataDir)
	if errors.Is(err, ErrNoData) {
		return Find(minMajor)
	}
	if err != nil {
		return Installation{}, err
	}
	all := Installations()
	if i := slices.IndexFunc(all, func(in Installation) bool { return in.Major == major }); i >= 0 && major >= minMajor {
		return all[i], nil
	}
	return Installation{}, wrongVersion(dataDir, major, all)
}

// At returns the installation in binDir.
func At(binDir string) (Installation, error) {
	for _, name := range []string{"postgres", "initdb"} {
		if info, err := os.Stat(filepath.Join(binDir, name)); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return Installation{}, ErrNotInstalled.WithCause(fmt.Errorf("no program %s in %s", name, binDir))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "postgres"), "--version") //nolint:gosec // a program the operator installed
	cmd.Env = childEnv()
	out, err := cmd.Output()
	if err != nil {
		return Installation{}, fmt.Errorf("ask %s for its version: %w", cmd.Path, err)
	}
	version, major, err := parseVersion(string(out))
	if err != nil {
		return Installation{}, err
	}
	return Installation{BinDir: binDir, Major: major, Version: version}, nil
}

// Installations returns every installation found, newest first.
func Installations() []Installation {
	var found []Installation
	seen := map[string]bool{}
	for _, dir := range candidates() {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		if seen[dir] {
			continue
		}
		seen[dir] = true
		if in, err := At(dir); err == nil {
			found = append(found, in)
		}
	}
	slices.SortStableFunc(found, func(a, b Installation) int { return cmp.Compare(b.Major, a.Major) })
	return found
}

func candidates() []string {
	var dirs []string
	for _, name := range []string{"postgres", "initdb"} {
		if path, err := exec.LookPath(name); err == nil {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				path = real
			}
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
		"/usr/pgsql-*/bin",          // PGDG on Red Hat
		"/usr/libexec/postgresql*",  // Alpine
		"/usr/lib/postgresql*/bin",  // SUSE
		"/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin",
		"/usr/local/pgsql/bin",
		"/opt/postgresql*/bin",
	} {
		matches, _ := filepath.Glob(pattern) // the patterns are well formed
		dirs = append(dirs, matches...)
	}
	return dirs
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ((\d+)[^\s]*)`)

// parseVersion reads the answer to --version: "postgres (PostgreSQL) 15.14 (Debian …)", also 19devel and 18beta1.
func parseVersion(out string) (version string, major int, err error) {
	m := versionLine.FindStringSubmatch(out)
	if m == nil {
		return "", 0, fmt.Errorf("no version in %q", strings.TrimSpace(out))
	}
	major, err = strconv.Atoi(m[2])
	return m[1], major, err
}

// DataVersion returns the major version of the data folder, or ErrNoData if it is missing or empty, or ErrNotEmpty.
func DataVersion(dataDir string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION")) //nolint:gosec // the operator's own folder
	if err == nil {
		major, broken := strconv.Atoi(strings.TrimSpace(string(raw)))
		if broken != nil { // whose text would quote the file
			return 0, ErrNotEmpty.WithCause(fmt.Errorf("%s/PG_VERSION holds no version", dataDir))
		}
		return major, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return 0, ErrAccess.WithCause(err)
	}
	entries, err := os.ReadDir(dataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, ErrAccess.WithCause(err)
	}
	if len(entries) > 0 {
		return 0, ErrNotEmpty.WithCause(fmt.Errorf("%s holds %s", dataDir, entries[0].Name())).
			WithHint("choose an empty folder, or move what is in this one away")
	}
	return 0, ErrNoData.WithCause(errors.New(dataDir))
}

func wrongVersion(dataDir string, major int, all []Installation) *errs.Error {
	return ErrWrongVersion.
		WithCause(fmt.Errorf("%s was made by PostgreSQL %d, installed: %s", dataDir, major, names(all))).
		WithHint(fmt.Sprintf("install PostgreSQL %d (apt-get install -y postgresql-%d), or upgrade the folder with pg_upgrade", major, major))
}

func names(all []Installation) string {
	if len(all) == 0 {
		return "none"
	}
	var s []string
	for _, in := range all {
		s = append(s, in.Version+" in "+in.BinDir)
	}
	return strings.Join(s, ", ")
}

// InstallCommand returns the command that installs PostgreSQL on this kind of machine.
func InstallCommand() string {
	for _, c := range []struct{ tool, command string }{
		{"apt-get", "apt-get install -y postgresql"},
		{"dnf", "dnf install -y postgresql-server postgresql-contrib"},
		{"yum", "yum install -y postgresql-server postgresql-contrib"},
		{"zypper", "zypper install -y postgresql-server postgresql-contrib"},
		{"pacman", "pacman -S --noconfirm postgresql"},
		{"apk", "apk add postgresql postgresql-contrib"},
		{"brew", "brew install postgresql"},
	} {
		if _, err := exec.LookPath(c.tool); err == nil {
			return c.command
		}
	}
	return "apt-get install -y postgresql"
}
