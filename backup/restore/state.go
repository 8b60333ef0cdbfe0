package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rootstream/backup/pgdata"
	"rootstream/errs"
	"rootstream/internal/proc"
	"rootstream/pgserver"
)

// ErrNothingKept says that there is nothing to go back to.
var ErrNothingKept = errs.New(errs.NotFound, "restore_nothing_kept", "no folder was kept aside")

const (
	statePath   = pgdata.RestoreNote    // in the target, from before its first change until it is complete
	journalName = ".rootstream-restore" // beside the target, as long as the old folder is kept
	maxState    = 1 << 20
)

// state is what a restore leaves in its target, so that a later one knows that it may go on there.
type state struct {
	Repository string    `json:"repository"`
	Backup     string    `json:"backup"`
	Target     string    `json:"target"`
	Started    time.Time `json:"started_at"`
	Spaces     []string  `json:"tablespaces"` // folders outside that are ours to write to
}

// readState returns the state of a restore that was not completed, if there is one.
func readState(dir string) (state, bool, error) {
	var s state
	found, err := readJSON(filepath.Join(dir, statePath), &s)
	return s, found, err
}

func readJSON(path string, into any) (bool, error) {
	f, err := openNote(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, ErrTarget.WithCause(err)
	}
	defer func() { _ = f.Close() }()
	return true, parseNote(path, f, into)
}

// openNote opens a file that is one, in a folder whose owner may have put anything there.
func openNote(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) //nolint:gosec // beside the operator's own folder
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func parseNote(path string, f io.Reader, into any) error {
	raw, err := io.ReadAll(io.LimitReader(f, maxState))
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return ErrTarget.WithCause(fmt.Errorf("read %s: %w", path, err))
	}
	return nil
}

// claim writes down that the folder is being restored.
func (j *Job) claim() error {
	s := state{Repository: j.repo.ID().String(), Backup: j.Manifest.ID, Target: j.Config.Target.String(), Started: time.Now().UTC()}
	for _, space := range j.tree.spaces {
		s.Spaces = append(s.Spaces, space.location)
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return j.tree.put(statePath, append(raw, '\n'))
}

// journal says what was moved aside for a restore in place. It is on disk before the first move.
type journal struct {
	Dir     string    `json:"dir"`
	Backup  string    `json:"backup"`
	Started time.Time `json:"started_at"`
	Moves   []move    `json:"moves"`
	Ending  ending    `json:"ending,omitempty"` // what has begun and is to be finished: half of each would be none of both
}

// ending is what becomes of what was kept.
type ending string

const (
	takenBack ending = "rollback"
	confirmed ending = "confirm"
)

type move struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func journalOf(dir string) string { return dir + journalName }

// readJournal reads what we have written ourselves. It lies in a folder that may be another user's, and names what is
// removed.
func readJournal(dir string) (j journal, found bool, err error) {
	path := journalOf(dir)
	f, err := openNote(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, false, nil
	}
	if err != nil {
		return j, false, ErrTarget.WithCause(err)
	}
	defer func() { _ = f.Close() }()
	owner, err := ownerOfFile(f)
	if err != nil {
		return j, false, ErrTarget.WithCause(err)
	}
	if int(owner) != os.Geteuid() {
		return j, false, ErrTarget.WithCause(fmt.Errorf("%s was written by another user (uid %d)", path, owner)).
			WithHint("do this as that user, or remove the file and do by hand what it says")
	}
	if err = parseNote(path, f, &j); err != nil {
		return journal{}, false, err
	}
	if !j.sound(dir) {
		return journal{}, false, ErrTarget.WithCause(fmt.Errorf("%s moves what it should not", path))
	}
	return j, true, nil
}

// sound reports whether a journal is of the folder, and moves it and versions' folders of tablespaces to where we move
// them.
func (j journal) sound(dir string) bool {
	for i, m := range j.Moves {
		if m.To != m.From+j.suffix() || !filepath.IsAbs(m.From) || filepath.Clean(m.From) != m.From ||
			i == 0 && m.From != dir || i > 0 && !strings.HasPrefix(filepath.Base(m.From), "PG_") {
			return false
		}
	}
	return j.Dir == dir && len(j.Moves) > 0
}

// suffix is what the names of folders that are kept end with.
func (j journal) suffix() string { return ".before-" + j.Started.UTC().Format("20060102T150405Z") }

// setAside moves the old folders away, all of them even if a predecessor was killed between two.
func setAside(j journal) error {
	if err := j.write(); err != nil {
		return err
	}
	return j.apply()
}

// write puts the journal on disk.
func (j journal) write() error {
	raw, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	us, err := proc.Current()
	if err != nil {
		return err
	}
	if err = errors.Join(us.WriteFile(journalOf(j.Dir), string(raw)+"\n", true), syncParent(j.Dir)); err != nil {
		return ErrTarget.WithCause(err)
	}
	return nil
}

// unended refuses what contradicts an ending that has begun.
func (j journal) unended(but ending) error {
	if j.Ending == "" || j.Ending == but {
		return nil
	}
	return ErrTarget.WithCause(fmt.Errorf("a %s was begun and is not complete", j.Ending)).
		WithHint("finish it: rootstream backup restore --to " + j.Dir + " --" + string(j.Ending))
}

// end writes down which ending begins.
func (j journal) end(how ending) error {
	if err := j.unended(how); err != nil || j.Ending == how {
		return err
	}
	j.Ending = how
	return j.write()
}

// apply makes the moves that have not been made.
func (j journal) apply() error {
	for _, m := range j.Moves {
		if err := rename(m.From, m.To); err != nil {
			return ErrTarget.WithCause(err).WithHint("a mount point cannot be moved aside: restore over it with --delta")
		}
	}
	return nil
}

// rename moves a folder unless it has been moved, and waits until that is on disk.
func rename(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(syncParent(from), syncParent(to))
}

// kept returns what a restore in place of dir kept aside.
func kept(dir string) (journal, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return journal{}, ErrTarget.WithCause(err)
	}
	j, found, err := readJournal(dir)
	if err == nil && !found {
		err = ErrNothingKept.WithCause(errors.New(dir))
	}
	return j, err
}

// Rollback removes what a restore in place made of dir, and puts back what was there before.
func Rollback(dir string) error {
	j, err := kept(dir)
	if err != nil {
		return err
	}
	if err := pgserver.InUse(j.Dir); err != nil {
		return err
	}
	if err := j.end(takenBack); err != nil {
		return err
	}
	if exists(j.Moves[0].To) { // from here on no server starts on what goes, or on half of what comes back
		if err := disable(j.Dir); err != nil {
			return ErrTarget.WithCause(err)
		}
	}
	for _, m := range slices.Backward(j.Moves) {
		if err := m.back(); err != nil {
			return ErrTarget.WithCause(err)
		}
	}
	return forget(j.Dir)
}

// disable takes pg_control out of a folder.
func disable(dir string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err = root.Remove(pgdata.ControlPath); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, root.Close())
}

// back undoes the move, whatever has been made in its place.
func (m move) back() error {
	if _, err := os.Lstat(m.To); errors.Is(err, fs.ErrNotExist) {
		return nil // not moved yet, or back already
	} else if err != nil {
		return err
	}
	if err := os.RemoveAll(m.From); err != nil {
		return err
	}
	return errors.Join(os.Rename(m.To, m.From), syncParent(m.From))
}

// Confirm removes what a restore in place kept aside.
func Confirm(dir string) error {
	j, err := kept(dir)
	if err != nil {
		return err
	}
	if _, unfinished, err := readState(j.Dir); err != nil || unfinished {
		return errors.Join(err, ErrTarget.WithCause(errors.New("the restore is not complete")))
	}
	if err := j.end(confirmed); err != nil {
		return err
	}
	for _, m := range j.Moves {
		if err := os.RemoveAll(m.To); err != nil {
			return ErrTarget.WithCause(err)
		}
	}
	return forget(j.Dir)
}

func forget(dir string) error {
	if err := os.Remove(journalOf(dir)); err != nil {
		return ErrTarget.WithCause(err)
	}
	return syncParent(dir)
}
