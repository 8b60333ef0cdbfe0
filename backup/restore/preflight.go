package restore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/internal/proc"
	"rootstream/pgserver"
)

// survey is what a look through the backup's list of files found.
type survey struct {
	files int64
	bytes map[string]int64 // by link of the tablespace; "" is the data folder
	group bool
	seed  maphash.Seed
	names []uint64 // hashes of all paths, in order
}

func (s survey) total() (sum int64) {
	for _, n := range s.bytes {
		sum += n
	}
	return sum
}

// knows reports whether the backup has the path, or something that falls on the same hash.
func (s survey) knows(name string) bool {
	_, found := slices.BinarySearch(s.names, maphash.String(s.seed, name))
	return found
}

// look goes through the list of files, so that one that is damaged is found before anything is touched.
func (j *Job) look(ctx context.Context) (survey, error) {
	s := survey{bytes: map[string]int64{"": 0}, seed: maphash.MakeSeed()}
	last := ""
	for f, err := range j.entries(ctx) {
		if err != nil {
			return s, err
		}
		if err := checkPath(f); err != nil {
			return s, err
		}
		const controlSize = 8192
		if last = f.Path; last == pgdata.ControlPath && f.Size != controlSize {
			return s, repo.ErrDamaged.WithCause(fmt.Errorf("pg_control has %d bytes", f.Size))
		}
		s.names = append(s.names, maphash.String(s.seed, f.Path))
		if f.Kind == repo.Regular {
			s.files++
			s.bytes[spaceOf(f.Path)] += f.Size
		}
		const groupReads = 0o050
		s.group = s.group || f.Path == "base" && f.Mode&groupReads == groupReads
	}
	if last != pgdata.ControlPath {
		return s, repo.ErrDamaged.WithCause(errors.New("the list of files does not end with pg_control"))
	}
	slices.Sort(s.names)
	return s, nil
}

const spacesPath = "pg_tblspc"

// spaceOf returns the link of the tablespace that a path lies in; "" for the data folder.
func spaceOf(name string) string {
	rest, ok := strings.CutPrefix(name, spacesPath+"/")
	oid, _, inside := strings.Cut(rest, "/")
	if !ok || !inside {
		return ""
	}
	return spacesPath + "/" + oid
}

func linkOf(ts repo.Tablespace) string {
	return spacesPath + "/" + strconv.FormatUint(uint64(ts.OID), 10)
}

// spaces returns the tablespaces at the folders they go to.
func (j *Job) spaces() ([]space, error) {
	var all []space
	used := map[string]bool{}
	for _, ts := range j.Manifest.Tablespaces {
		s := space{oid: ts.OID, link: linkOf(ts), location: filepath.Clean(ts.Location), asked: os.Geteuid() != 0}
		if j.Config.SpacesUnder != "" {
			s.location, s.asked = filepath.Join(j.Config.SpacesUnder, strconv.FormatUint(uint64(ts.OID), 10)), true
		}
		if place, ok := j.Config.Tablespaces[s.location]; ok {
			used[s.location] = true
			s.location, s.asked = filepath.Clean(place), true
		}
		if !filepath.IsAbs(s.location) || within(j.Config.Dir, s.location) || within(s.location, j.Config.Dir) {
			return nil, ErrTarget.WithCause(fmt.Errorf("tablespace %d cannot be at %s", ts.OID, s.location)).
				WithHint("give it another folder: --tablespace-map OLD=NEW")
		}
		all = append(all, s)
	}
	for old := range j.Config.Tablespaces {
		if !used[old] {
			return nil, ErrTarget.WithCause(fmt.Errorf("the backup has no tablespace at %s", old))
		}
	}
	return all, nil
}

// within reports whether path lies in dir, or is dir.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// version returns the folder in a tablespace that holds what this version of PostgreSQL has there.
func (j *Job) version() string {
	return fmt.Sprintf("PG_%d_%d", j.Manifest.Cluster.Major, j.Manifest.Cluster.Catalog)
}

// OwnerOf returns whom the files of a restore will belong to, and as whom its server runs.
func OwnerOf(cfg Config) (proc.Account, error) {
	us, err := proc.Current()
	if err != nil {
		return us, ErrOwner.WithCause(err)
	}
	if cfg.Owner != "" {
		named, unknown := proc.Lookup(cfg.Owner)
		if unknown != nil || (named.Foreign() && us.UID != 0) {
			return named, ErrOwner.WithCause(errors.Join(unknown, fmt.Errorf("this process runs as %s", us.Name)))
		}
		return named, nil
	}
	if us.UID != 0 {
		return us, nil
	}
	parent, err := ownerAbove(cfg.Dir)
	if err != nil || parent.UID != 0 {
		return parent, err
	}
	// PostgreSQL does not run as root.
	if server, missing := proc.Unprivileged("postgres", "pgsql"); missing == nil {
		return server, nil
	}
	return us, nil
}

// ownerAbove returns the owner of the nearest folder above that exists.
func ownerAbove(dir string) (proc.Account, error) {
	for {
		dir = filepath.Dir(dir)
		a, err := proc.Owner(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return a, ErrOwner.WithCause(err)
		}
		return a, nil
	}
}

// preflight refuses what would end badly, before anything is touched.
func (j *Job) preflight() error {
	dir := j.Config.Dir
	if err := pgserver.InUse(dir); err != nil {
		return err
	}
	if err := j.Account.CanEnter(filepath.Dir(dir)); err != nil {
		return ErrTarget.WithCause(err)
	}
	if err := j.checkLink(); err != nil {
		return err
	}
	kept, _, err := readJournal(dir)
	if err == nil {
		err = kept.unended("")
	}
	if err != nil {
		return err
	}
	st, unfinished, err := readState(dir)
	if err != nil {
		return err
	}
	if unfinished && st.Repository != j.repo.ID().String() {
		return ErrForeign.WithCause(fmt.Errorf("a restore from repository %s was begun there", st.Repository))
	}
	if unfinished && exists(filepath.Join(dir, pgdata.ControlPath)) {
		unfinished = false // it was complete but for its last note; a server may have run on it since
	}
	j.resume, j.reuse = unfinished, unfinished || j.Config.Mode == Delta
	filled, err := holdsAnything(dir)
	if err != nil {
		return err
	}
	if filled && !unfinished {
		if err := j.mayReplace(); err != nil {
			return err
		}
	}
	if err := j.checkSpaces(st.Spaces); err != nil {
		return err
	}
	return j.checkRoom()
}

func holdsAnything(dir string) (bool, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, ErrTarget.WithCause(err)
	}
	return slices.ContainsFunc(names, func(e fs.DirEntry) bool { return e.Name() != "lost+found" }), nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// mayReplace decides about a folder with something in it.
func (j *Job) mayReplace() error {
	dir := j.Config.Dir
	if j.Config.Mode == Fresh {
		return ErrNotEmpty.WithCause(errors.New(dir)).
			WithHint("choose another folder, or restore over it with --delta, or with --in-place, which keeps it aside")
	}
	if _, err := pgserver.DataVersion(dir); err != nil {
		return ErrForeign.WithCause(fmt.Errorf("%s is no data folder of PostgreSQL: %w", dir, err))
	}
	if j.Config.Mode == InPlace {
		if old, kept, err := readJournal(dir); err != nil {
			return err
		} else if kept && exists(old.Moves[0].To) {
			return ErrTarget.WithCause(fmt.Errorf("what was there before the restore of %s is still kept aside", old.Started.Format(time.RFC3339))).
				WithHint("roll back to it, or confirm that it may go")
		}
		return nil
	}
	control, _, err := pgdata.ReadControl(dir)
	if err == nil && control.SystemID != j.Manifest.Cluster.SystemID {
		return ErrForeign.WithCause(fmt.Errorf("%s holds cluster %d, the backup is of %d", dir, control.SystemID, j.Manifest.Cluster.SystemID))
	}
	return nil
}

// checkSpaces refuses tablespaces whose folders hold data that is not this folder's own: another cluster may live on it.
func (j *Job) checkSpaces(ours []string) error {
	spaces, err := j.spaces()
	if err != nil {
		return err
	}
	old, _, err := readJournal(j.Config.Dir)
	if err != nil {
		return err
	}
	for _, m := range old.Moves { // of a predecessor that was killed before it had moved them all
		ours = append(ours, filepath.Dir(m.From))
	}
	for _, s := range spaces {
		if err := j.Account.CanEnter(filepath.Dir(s.location)); err != nil {
			return ErrTarget.WithCause(err)
		}
		if err := j.mayUse(s); err != nil {
			return err
		}
		filled, err := holdsAnything(filepath.Join(s.location, j.version()))
		if err != nil {
			return err
		}
		linked, _ := os.Readlink(filepath.Join(j.Config.Dir, s.link))
		own := slices.Contains(ours, s.location) || (j.Config.Mode != Fresh && linked == s.location)
		if filled && !own {
			return ErrNotEmpty.WithCause(fmt.Errorf("tablespace folder %s holds data", s.location)).
				WithHint("give the tablespace another folder: --tablespace-map " + s.location + "=NEW")
		}
	}
	return nil
}

// mayUse refuses root a folder that only the backup names, unless it is the owner's already: where a tablespace is, a
// superuser of the database says.
func (j *Job) mayUse(s space) error {
	if s.asked {
		return nil
	}
	owner, err := proc.Owner(s.location)
	if err == nil && owner.UID == j.Account.UID && owner.UID != 0 {
		return nil
	}
	return ErrTarget.WithCause(errors.Join(fmt.Errorf("tablespace folder %s is not a folder of user %s", s.location, j.Account.Name), err)).
		WithHint("if it is to be there, say so: --tablespace-map " + s.location + "=" + s.location)
}

// checkLink refuses a target that is a link to somebody else's folder: who owns the folder above may have put it there.
func (j *Job) checkLink() error {
	if !j.Config.linked {
		return nil
	}
	owner, err := proc.Owner(j.Config.Dir)
	if err == nil && owner.UID == j.Account.UID {
		return nil
	}
	return ErrTarget.WithCause(errors.Join(fmt.Errorf("it is a link to %s, which is not a folder of user %s", j.Config.Dir, j.Account.Name), err)).
		WithHint("name the folder itself")
}

// checkRoom adds up what goes to each disk.
func (j *Job) checkRoom() error {
	spaces, err := j.spaces()
	if err != nil {
		return err
	}
	places := map[string]int64{j.Config.Dir: j.survey.bytes[""]}
	for _, s := range spaces {
		places[s.location] += j.survey.bytes[s.link]
	}
	need, free, name := map[uint64]int64{}, map[uint64]int64{}, map[uint64]string{}
	for dir, bytes := range places {
		if j.reuse {
			bytes -= min(bytes, usage(dir))
		}
		dev, room, err := roomAt(dir)
		if err != nil {
			return ErrTarget.WithCause(err)
		}
		need[dev] += bytes
		free[dev], name[dev] = room, dir
	}
	for dev, bytes := range need {
		if bytes > free[dev] {
			return ErrSpace.WithCause(fmt.Errorf("%s needs %d bytes and has %d", name[dev], bytes, free[dev]))
		}
	}
	return nil
}

// roomAt returns the device that a folder is or will be on, and what is free there.
func roomAt(dir string) (device uint64, free int64, err error) {
	for {
		var info fs.FileInfo
		if info, err = os.Stat(dir); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				device = st.Dev
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return 0, 0, err
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err = unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("look for space at %s: %w", dir, err)
	}
	return device, int64(st.Bavail) * st.Bsize, nil //nolint:gosec // fewer blocks than bytes
}

// makeRoom moves the old folders aside, or goes on with that.
func (j *Job) makeRoom() error {
	if j.Config.Mode != InPlace {
		return nil
	}
	old, begun, err := readJournal(j.Config.Dir)
	if err != nil {
		return err
	}
	if !begun {
		if old, err = j.moves(); err != nil || len(old.Moves) == 0 {
			return err
		}
		if err = setAside(old); err != nil {
			return err
		}
	} else if err = old.apply(); err != nil {
		return err
	}
	j.kept = old.Moves[0].To
	return nil
}

func (j *Job) moves() (journal, error) {
	now := time.Now().UTC()
	jo := journal{Dir: j.Config.Dir, Backup: j.Manifest.ID, Started: now}
	suffix := jo.suffix()
	spaces, err := j.spaces()
	if err != nil {
		return jo, err
	}
	if filled, err := holdsAnything(j.Config.Dir); err != nil || !filled {
		return jo, err
	}
	jo.Moves = append(jo.Moves, move{j.Config.Dir, j.Config.Dir + suffix})
	for _, s := range spaces {
		place := filepath.Join(s.location, j.version())
		if filled, err := holdsAnything(place); err != nil {
			return jo, err
		} else if filled {
			jo.Moves = append(jo.Moves, move{place, place + suffix})
		}
	}
	return jo, nil
}
