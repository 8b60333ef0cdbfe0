package backup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"rootstream/backup/archive"
	"rootstream/backup/wal"
	"rootstream/internal/proc"
	"rootstream/internal/wait"
)

// relay fetches write-ahead log for a server that runs as another user. They
// meet in a folder: PostgreSQL's restore_command, a few lines of sh, puts down
// what it wants as want.NAME.PID and waits until the file is there as
// have.NAME.PID, is proven absent (none.…), or could not be fetched (fail.…).
type relay struct {
	source archive.Source
	log    *slog.Logger
	dir    string
	root   *os.Root // what the other user does in the folder leads nowhere else
	own    string   // a folder that nobody else enters
	user   proc.Account
}

const relayEvery = 25 * time.Millisecond

// newRelay meets the user in a folder within parent.
func newRelay(source archive.Source, user proc.Account, parent string, log *slog.Logger) (*relay, error) {
	r := &relay{source: source, log: log, user: user}
	var err error
	if user.CanEnter(parent) != nil {
		parent = os.TempDir()
	}
	if r.own, err = os.MkdirTemp("", "rootstream-relayed-"); err == nil {
		err = r.meet(parent)
	}
	if err != nil {
		r.close()
		return nil, fmt.Errorf("relay write-ahead log: %w", err)
	}
	return r, nil
}

// meet makes the folder. Its parent may be the user's: what is given away is the folder just made, whatever its name
// leads to by now.
func (r *relay) meet(parent string) error {
	above, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer func() { _ = above.Close() }()
	name := ".rootstream-relay-" + rand.Text()
	if err = above.Mkdir(name, 0o700); err != nil {
		return err
	}
	r.dir = filepath.Join(parent, name)
	if r.root, err = above.OpenRoot(name); err != nil {
		return err
	}
	d, err := r.root.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%s is not the folder just made", r.dir)
	}
	return d.Chown(int(r.user.UID), int(r.user.GID))
}

func (r *relay) close() {
	if r.root != nil {
		_ = r.root.Close()
	}
	for _, dir := range []string{r.dir, r.own} {
		if dir != "" {
			_ = os.RemoveAll(dir)
		}
	}
}

// command is the restore_command. Without us it ends with 255, which stops recovery; only proven absence ends it well. A
// redirection that fails ends a shell with 2, which would be the end of the log for PostgreSQL: so that is one of its own.
func (r *relay) command() string {
	return fmt.Sprintf(`d=%s; n="%%f.$$"; ( : >"$d/want.$n" ) || exit 255; while [ -d "$d" ] && [ -d /proc/%d ]; do `+
		`if [ -e "$d/have.$n" ]; then cp "$d/have.$n" "%%p" && rm -f "$d/have.$n" && exit 0; exit 255; `+
		`elif [ -e "$d/none.$n" ]; then rm -f "$d/none.$n"; exit 1; elif [ -e "$d/fail.$n" ]; then rm -f "$d/fail.$n"; exit 255; fi; `+
		`sleep 0.03; done; exit 255`, archive.Quote(r.dir), os.Getpid())
}

// run answers until ctx ends.
func (r *relay) run(ctx context.Context) {
	for wait.For(ctx, relayEvery) == nil {
		names, err := fs.Glob(r.root.FS(), "want.*")
		if err != nil {
			continue
		}
		for _, name := range names {
			if err := r.root.Remove(name); err == nil {
				r.answer(ctx, strings.TrimPrefix(name, "want."))
			}
		}
	}
}

// answer fetches one file.
func (r *relay) answer(ctx context.Context, request string) {
	dot := strings.LastIndexByte(request, '.')
	if dot < 0 {
		return
	}
	kind, data := "have.", []byte(nil)
	place := filepath.Join(r.own, "fetched")
	_, err := wal.ParseName(request[:dot])
	if err == nil {
		err = r.source.Fetch(ctx, request[:dot], place)
	}
	if err == nil {
		data, err = os.ReadFile(place) //nolint:gosec // our own folder
	}
	switch {
	case errors.Is(err, archive.ErrAbsent):
		kind = "none."
	case err != nil:
		kind = "fail."
		r.log.ErrorContext(ctx, "write-ahead log was not fetched", "file", request[:dot], "err", err)
	}
	if err := r.put(kind+request, data); err != nil {
		r.log.ErrorContext(ctx, "write-ahead log was not handed over", "file", request[:dot], "err", err)
	}
}

// put writes an answer that appears at once.
func (r *relay) put(name string, data []byte) error {
	f, err := r.root.OpenFile("new", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		_ = r.root.Remove("new")
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chown(int(r.user.UID), int(r.user.GID)), f.Close()); err != nil {
		return err
	}
	return r.root.Rename("new", name)
}
