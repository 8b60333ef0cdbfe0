package archive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"rootstream/internal/proc"
)

// ExitAbsent is the exit code by which a fetch says that the file is proven absent. It is not 1: that is also how a
// program ends that was told nonsense, and PostgreSQL takes 1 to 125 for the end of the log and promotes.
const ExitAbsent = 42

// RestoreCommand returns a restore_command that runs argv with the name of the file and the place it belongs. Only a
// proven absence ends the recovery; everything else stops it, whatever it is: a panic, a missing key, a program that
// is not there.
func RestoreCommand(argv ...string) string {
	return commandLine(argv) + ` "%f" "%p"; case $? in 0) exit 0;; ` + fmt.Sprint(ExitAbsent) + `) exit 1;; *) exit 255;; esac`
}

// PushCommand returns an archive_command that runs argv with the path of the file.
func PushCommand(argv ...string) string { return commandLine(argv) + ` "%p"` }

// Quote makes text one word for the shell, and safe for PostgreSQL, which replaces what follows a percent sign.
func Quote(text string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "%", "%%").Replace(text) + "'"
}

func commandLine(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		quoted[i] = Quote(a)
	}
	return strings.Join(quoted, " ")
}

// PrefetchDir is where segments of a cluster are fetched ahead from a repository if nobody says where: outside of
// pg_wal, where pg_rewind would stumble over them. Copies of a cluster have its id, and log of their own.
func PrefetchDir(repository uuid.UUID, system uint64) string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("rootstream-fetch-%d-%d-%.8s", os.Getuid(), system, repository))
}

// privateDir makes a folder that is ours alone; one that is somebody else's is refused.
func privateDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("folder for segments fetched ahead: %w", err)
	}
	return isPrivate(dir)
}

// isPrivate refuses a folder that is not ours alone: whoever can write to it could put a log of their own making there,
// which no key proves wrong.
func isPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("folder for segments fetched ahead: %w", err)
	}
	if !proc.OursAlone(info) {
		return fmt.Errorf("folder for segments fetched ahead: %s is not a private folder of ours", dir)
	}
	return nil
}
