package restore_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/restore"
	"rootstream/backup/restore/plan"
	"rootstream/backup/restore/proof"
	"rootstream/internal/proc"
	"rootstream/internal/wait"
	"rootstream/pgserver"
	"rootstream/tests/harness"
)

// order is a restore for another process.
type order struct {
	Repository, Dir, RestoreCommand string
	Mode                            restore.Mode
	Settings                        map[string]string
	Tablespaces                     map[string]string
}

// restoreCommand is restore ORDER: what the command line does, without the command line.
func restoreCommand(args []string) int {
	var o order
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return 2
	}
	r, err := openRepo(context.Background(), o.Repository)
	if err == nil {
		_, err = restore.Run(context.Background(), restore.Config{
			Dir: o.Dir, RestoreCommand: o.RestoreCommand, Mode: o.Mode, Settings: o.Settings, Tablespaces: o.Tablespaces, Logger: quietly(),
		}, r)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (w *world) child(cfg restore.Config) *exec.Cmd {
	w.t.Helper()
	raw, err := json.Marshal(order{w.dir, cfg.Dir, cfg.RestoreCommand, cfg.Mode, cfg.Settings, cfg.Tablespaces})
	must(w.t, err)
	return exec.CommandContext(w.t.Context(), w.self, "restore", string(raw))
}

// banked is a cluster with a bank in a backup that nobody writes to any more, and a tablespace.
func banked(t *testing.T) (w *world, outside string) {
	t.Helper()
	w = newWorld(t)
	w.openBank(w.server)
	outside = filepath.Join(w.home, "outside")
	must(t, w.owner.MkdirAll(outside))
	conn := w.connect(w.server)
	run(t, conn, "create tablespace outside location '"+outside+"'")
	run(t, conn, "create table far tablespace outside as select g as id, md5(g::text) as v from generate_series(1, 5000) g")
	run(t, conn, "create index on far (v) tablespace outside")
	w.work(w.server, 100)
	w.backup(repo.Full)
	w.archived(w.server)
	return w, outside
}

// mapped is config with the tablespace at a place of its own.
func (w *world) mapped(name, outside string) restore.Config {
	cfg := w.config(name)
	cfg.Tablespaces = map[string]string{outside: filepath.Join(w.home, name+"-outside")}
	return cfg
}

// tree is everything in a folder: modes, owners, links and contents.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		st, _ := info.Sys().(*syscall.Stat_t)
		what := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		if info.Mode().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %d %x", len(raw), sha256.Sum256(raw))
		}
		all[rel] = what
		return nil
	}))
	return all
}

func spoilPage(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("spoilt"), 3*8192+100)
	return errors.Join(err, f.Close())
}

func TestADeltaRestoreEqualsAFullOne(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	full := w.mapped("full", outside)
	_, err := restore.Run(t.Context(), full, w.repo)
	must(t, err)
	want, wantOutside := tree(t, full.Dir), tree(t, full.Tablespaces[outside])

	delta := w.mapped("delta", outside)
	delta.Settings, delta.Mode = full.Settings, restore.Delta
	empty, err := restore.Run(t.Context(), delta, w.repo)
	must(t, err)
	// What a cluster that lived on may have done to its folder.
	spoil := func(name string, change func(path string) error) {
		t.Helper()
		must(t, change(filepath.Join(delta.Dir, name)))
	}
	spoil("base/5/1259", spoilPage)
	spoil("base/5/2619", func(p string) error { return os.Truncate(p, 0) })
	spoil("base/5/1247", func(p string) error { return os.Truncate(p, 10<<20) })
	spoil("base/5/112", os.Remove)
	spoil("PG_VERSION", func(p string) error { return os.Chmod(p, 0o644) })
	spoil("base/5/999999", func(p string) error { return os.WriteFile(p, []byte("left over"), 0o600) })
	for i := range 2500 { // more than are looked at in one go
		spoil(fmt.Sprintf("base/5/%d", 5_000_000+i), func(p string) error { return os.WriteFile(p, nil, 0o600) })
	}
	spoil("base/4242", func(p string) error { return os.MkdirAll(filepath.Join(p, "deep"), 0o700) })
	spoil("pg_wal/000000090000000000000009", func(p string) error { return os.WriteFile(p, []byte("of another time"), 0o600) })
	spoil("standby.signal", func(p string) error { return os.WriteFile(p, nil, 0o600) })
	spoil("pg_xact/0000", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) })
	again, err := restore.Run(t.Context(), delta, w.repo)
	must(t, err)
	if diff := cmp.Diff(want, tree(t, delta.Dir)); diff != "" {
		t.Errorf("(-full +delta):\n%s", diff)
	}
	if diff := cmp.Diff(wantOutside, tree(t, delta.Tablespaces[outside])); diff != "" {
		t.Errorf("tablespace (-full +delta):\n%s", diff)
	}
	if empty.Fetched < empty.Bytes/4 || again.Fetched > empty.Fetched/4 || again.Fetched == 0 {
		t.Errorf("fetched %d of %d bytes at first, then %d", empty.Fetched, empty.Bytes, again.Fetched)
	}
	if raw, err := os.ReadFile("/etc/passwd"); err != nil || !strings.Contains(string(raw), "root") {
		t.Fatal("a link led out of the folder")
	}
	_, s := w.restore(delta)
	checkBank(t, w.connect(s))
	if n := ask(t, w.connect(s), "select count(*)::text from far"); n != "5000" {
		t.Errorf("the tablespace has %s rows", n)
	}
}

func TestARestoreInPlaceCanBeTakenBack(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	conn := w.connect(w.server)
	run(t, conn, "create table newer as select 1 as x")
	run(t, conn, "update far set v = 'newer'")
	cfg := w.config("unused")
	cfg.Dir, cfg.Mode, cfg.Target = w.data, restore.InPlace, plan.Target{Kind: plan.Immediate}
	if _, err := restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, pgserver.ErrRunning) {
		t.Errorf("%v while the server runs", err)
	}
	must(t, w.server.Stop(t.Context(), pgserver.Fast))
	before, beforeOutside := tree(t, w.data), tree(t, outside)
	res, s := w.restore(cfg)
	if n := ask(t, w.connect(s), "select count(*)::text from far where v = 'newer'"); n != "0" || res.Kept == "" {
		t.Errorf("%s newer rows; kept %q", n, res.Kept)
	}
	if err := restore.Rollback(w.data); !errors.Is(err, pgserver.ErrRunning) {
		t.Errorf("%v while the server runs", err)
	}
	must(t, s.Stop(t.Context(), pgserver.Fast))
	if _, err := restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, restore.ErrTarget) {
		t.Errorf("%v: what is kept would be lost", err)
	}
	must(t, restore.Rollback(w.data))
	if diff := cmp.Diff(before, tree(t, w.data)); diff != "" {
		t.Errorf("(-before +rolled back):\n%s", diff)
	}
	if diff := cmp.Diff(beforeOutside, tree(t, outside)); diff != "" {
		t.Errorf("tablespace (-before +rolled back):\n%s", diff)
	}
	if err := restore.Rollback(w.data); !errors.Is(err, restore.ErrNothingKept) {
		t.Errorf("%v, want ErrNothingKept", err)
	}
	_, err := restore.Run(t.Context(), cfg, w.repo)
	must(t, err)
	must(t, restore.Confirm(w.data))
	if left, _ := filepath.Glob(w.data + "*before*"); len(left) > 0 {
		t.Errorf("%v is still there", left)
	}
}

// killedAt runs the end of a restore in place in another process, and kills it a moment after it has said what it does.
// It reports whether it was complete by then.
func (w *world) killedAt(what string, after time.Duration) (complete bool) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), w.self, what, w.data)
	must(w.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		note, err := os.ReadFile(w.data + ".rootstream-restore")
		if err != nil || strings.Contains(string(note), what) {
			break
		}
		must(w.t, wait.For(w.t.Context(), 100*time.Microsecond))
	}
	must(w.t, wait.For(w.t.Context(), after))
	_ = cmd.Process.Kill()
	return <-ended == nil
}

func TestAKilledRollbackIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	must(t, w.server.Stop(t.Context(), pgserver.Fast))
	cfg := w.config("unused")
	cfg.Dir, cfg.Mode = w.data, restore.InPlace
	rng := rand.New(rand.NewPCG(harness.Seed(t), 11))
	both := func() [2]map[string]string { return [2]map[string]string{tree(t, w.data), tree(t, outside)} }
	old, killed := both(), 0
	for range 5 {
		_, err := restore.Run(t.Context(), cfg, w.repo)
		must(t, err)
		restored := both()
		if !w.killedAt("rollback", time.Duration(rng.Int64N(int64(12*time.Millisecond)))) {
			killed++
			w.halfTakenBack(cfg, func() bool {
				now := both()
				_, startable := now[0][pgdata.ControlPath]
				return startable && !cmp.Equal(now, restored) && !cmp.Equal(now, old)
			})
		}
		if _, err := os.Lstat(w.data + ".rootstream-restore"); err == nil {
			must(t, restore.Rollback(w.data))
		}
		if diff := cmp.Diff(old, both()); diff != "" {
			t.Fatalf("(-before +rolled back):\n%s", diff)
		}
	}
	if killed == 0 {
		t.Error("none was killed")
	}
}

// halfTakenBack proves that nothing is lost of what is half taken back, whatever is tried on it.
func (w *world) halfTakenBack(cfg restore.Config, mixed func() bool) {
	w.t.Helper()
	if _, err := os.Lstat(w.data + ".rootstream-restore"); err != nil {
		return // it was killed after its last act
	}
	if mixed() {
		w.t.Error("a server may start on it")
	}
	if err := restore.Confirm(w.data); !errors.Is(err, restore.ErrTarget) {
		w.t.Errorf("%v: it was confirmed", err)
	}
	if _, err := restore.Run(w.t.Context(), cfg, w.repo); !errors.Is(err, restore.ErrTarget) {
		w.t.Errorf("%v: it was restored over", err)
	}
}

func TestWhatIsHalfConfirmedIsNotTakenBack(t *testing.T) {
	t.Parallel()
	w, _ := banked(t)
	must(t, w.server.Stop(t.Context(), pgserver.Fast))
	cfg := w.config("unused")
	cfg.Dir, cfg.Mode = w.data, restore.InPlace
	for {
		res, err := restore.Run(t.Context(), cfg, w.repo)
		must(t, err)
		if w.killedAt("confirm", time.Millisecond) {
			continue // it was faster
		}
		restored := tree(t, w.data)
		if err = restore.Rollback(w.data); !errors.Is(err, restore.ErrTarget) {
			t.Errorf("%v: it went back to what is half removed", err)
		}
		must(t, restore.Confirm(w.data))
		if _, err = os.Lstat(res.Kept); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: it is still kept", err)
		}
		if diff := cmp.Diff(restored, tree(t, w.data)); diff != "" {
			t.Errorf("(-restored +confirmed):\n%s", diff)
		}
		return
	}
}

func TestWhatWouldEndBadlyIsRefusedBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	other := newWorld(t)
	must(t, other.server.Stop(t.Context(), pgserver.Fast))
	filled := filepath.Join(w.home, "filled")
	must(t, os.MkdirAll(filled, 0o755))
	must(t, os.WriteFile(filepath.Join(filled, "letter.txt"), []byte("dear"), 0o600))
	for _, tt := range []struct {
		name string
		cfg  func(*restore.Config)
		want error
	}{
		{"a folder with something in it", func(c *restore.Config) { c.Dir = filled }, restore.ErrNotEmpty},
		{"delta over what is no cluster", func(c *restore.Config) { c.Dir, c.Mode = filled, restore.Delta }, restore.ErrForeign},
		{"in place of what is no cluster", func(c *restore.Config) { c.Dir, c.Mode = filled, restore.InPlace }, restore.ErrForeign},
		{"delta over another cluster", func(c *restore.Config) { c.Dir, c.Mode = other.data, restore.Delta }, restore.ErrForeign},
		{"a running server", func(c *restore.Config) { c.Dir, c.Mode = w.data, restore.Delta }, pgserver.ErrRunning},
		{"the tablespace of the living cluster", func(c *restore.Config) { c.Tablespaces = nil }, restore.ErrNotEmpty},
		{"a map of what is not there", func(c *restore.Config) { c.Tablespaces["/nowhere"] = "/elsewhere" }, restore.ErrTarget},
		{"a tablespace in the data folder", func(c *restore.Config) { c.Tablespaces[outside] = filepath.Join(c.Dir, "ts") }, restore.ErrTarget},
		{"a user nobody knows", func(c *restore.Config) { c.Owner = "nobody-has-this-name" }, restore.ErrOwner},
		{"a server as root", func(c *restore.Config) { c.Owner, c.Start = "root", true }, restore.ErrOwner},
		{"another version", func(c *restore.Config) { c.Start, c.Installation.Major = true, 13 }, restore.ErrVersion},
		{"another cluster's backups", func(c *restore.Config) { c.System = 42 }, plan.ErrNoBackup},
	} {
		cfg := w.mapped("target", outside)
		tt.cfg(&cfg)
		if _, err := restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if _, err := os.Lstat(filepath.Join(w.home, "target")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the target was made: %v", tt.name, err)
		}
	}
	if raw, err := os.ReadFile(filepath.Join(filled, "letter.txt")); err != nil || string(raw) != "dear" {
		t.Errorf("%q, %v", raw, err)
	}
}

func TestAClusterThatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "made", "yet")
	if err := restore.RoomFor(dir, 1<<60); !errors.Is(err, restore.ErrSpace) {
		t.Errorf("%v, want ErrSpace", err)
	}
	if err := restore.RoomFor(dir, 1); err != nil {
		t.Error(err)
	}
}

func TestAFolderThatIsCompleteIsNotTakenForHalfAClusterLater(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	cfg := w.mapped("complete", outside)
	_, err := restore.Run(t.Context(), cfg, w.repo)
	must(t, err)
	note := fmt.Sprintf(`{"repository": %q}`, w.repo.ID())
	must(t, os.WriteFile(filepath.Join(cfg.Dir, "rootstream.restore"), []byte(note), 0o600)) // as a kill at the last moment leaves it
	before := tree(t, cfg.Dir)
	if _, err = restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("%v: a server may have run there since", err)
	}
	if diff := cmp.Diff(before, tree(t, cfg.Dir)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestTwoRestoresDoNotShareAFolder(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	cfg := w.mapped("shared", outside)
	must(t, os.Mkdir(cfg.Dir, 0o700))
	other, err := os.Open(cfg.Dir)
	must(t, err)
	must(t, unix.Flock(int(other.Fd()), unix.LOCK_EX))
	if _, err = restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, restore.ErrTarget) || !strings.Contains(err.Error(), "another restore") {
		t.Errorf("beside another: %v", err)
	}
	must(t, other.Close())
	_, err = restore.Run(t.Context(), cfg, w.repo)
	must(t, err)
}

func TestAKilledRestoreDoesNotStartAndIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	kills := 7
	if harness.Soak(t, 0) > 0 {
		kills = 100
	}
	rng := rand.New(rand.NewPCG(harness.Seed(t), 9))
	cfg := w.mapped("killed", outside)
	took := time.Now()
	whole := w.mapped("whole", outside)
	whole.Settings = cfg.Settings
	out, err := w.child(whole).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	full := time.Since(took)
	killed := 0
	for range kills {
		cmd := w.child(cfg)
		must(t, cmd.Start())
		after := time.AfterFunc(time.Duration(rng.Int64N(int64(full))), func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		after.Stop()
		if err == nil { // it was faster: begin again
			must(t, os.RemoveAll(cfg.Dir))
			must(t, os.RemoveAll(cfg.Tablespaces[outside]))
			continue
		}
		killed++
		if _, err = os.Lstat(filepath.Join(cfg.Dir, pgdata.ControlPath)); err == nil {
			continue // all was there but for the last note
		}
		s, err := pgserver.New(pgserver.Config{Installation: w.in, DataDir: cfg.Dir, Foreign: true, RunAs: w.owner.Name, Logger: quietly()})
		must(t, err)
		if err := s.Start(t.Context()); err == nil {
			t.Error("a server started on half a cluster")
			w.stop(s)
		}
		_ = os.Remove(filepath.Join(cfg.Dir, "postmaster.pid"))
	}
	t.Logf("%d of %d were killed", killed, kills)
	cfg.Mode = restore.Delta
	if out, err := w.child(cfg).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if diff := cmp.Diff(tree(t, whole.Dir), tree(t, cfg.Dir)); diff != "" {
		t.Errorf("(-at once +after kills):\n%s", diff)
	}
	if diff := cmp.Diff(tree(t, whole.Tablespaces[outside]), tree(t, cfg.Tablespaces[outside])); diff != "" {
		t.Errorf("tablespace (-at once +after kills):\n%s", diff)
	}
}

func TestAnOrdinaryUserRestoresForItself(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	cfg := w.mapped("mine", outside)
	cmd := w.child(cfg)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.owner.Credential()}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, what := range tree(t, cfg.Dir) {
		if !strings.Contains(what, fmt.Sprintf(" %d:", w.owner.UID)) || !strings.HasPrefix(what, "-rw-------") && !strings.HasPrefix(what, "drwx------") && !strings.HasPrefix(what, "Lrwx") {
			t.Errorf("%s is %s", name, what)
		}
	}
	cfg.Mode = restore.Delta
	for name, mode := range map[string]fs.FileMode{"PG_VERSION": 0o400, "global/1262": 0, "base/1": 0o500, "pg_xact": 0} { // as keys often are
		must(t, os.Chmod(filepath.Join(cfg.Dir, name), mode))
	}
	cmd = w.child(cfg)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.owner.Credential()}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("over files that nobody may write to: %v\n%s", err, out)
	}
	_, s := w.restore(cfg) // root goes on where the user was
	checkBank(t, w.connect(s))
}

func TestFilesBelongToTheOwnerOfTheFolderAbove(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		u, err := user.Current()
		must(t, err)
		t.Logf("as %s, who can give files to nobody else", u.Username)
		return
	}
	w, outside := banked(t)
	above := filepath.Join(w.home, "above")
	nobody, err := proc.Lookup("nobody")
	must(t, err)
	must(t, nobody.MkdirAll(above))
	must(t, os.Chmod(above, 0o755))
	cfg := w.mapped("unused", outside)
	cfg.Dir = filepath.Join(above, "deep", "data")
	_, err = restore.Run(t.Context(), cfg, w.repo)
	must(t, err)
	for name, what := range tree(t, cfg.Dir) {
		if !strings.Contains(what, fmt.Sprintf(" %d:%d", nobody.UID, nobody.GID)) {
			t.Errorf("%s is %s", name, what)
		}
	}
}

func TestDamageIsNamedAndNeverRestored(t *testing.T) {
	t.Parallel()
	w, outside := banked(t)
	var packs []string
	must(t, filepath.WalkDir(filepath.Join(w.dir, "packs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			packs = append(packs, path)
		}
		return err
	}))
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 4 {
		pack := packs[rng.IntN(len(packs))]
		sound, err := os.ReadFile(pack)
		must(t, err)
		raw := append([]byte{}, sound...)
		raw[rng.IntN(len(raw)*9/10)] ^= 1 << rng.IntN(8)
		must(t, os.WriteFile(pack, raw, 0o600))
		cfg := w.mapped(fmt.Sprintf("damaged%d", i), outside)
		if _, err = restore.Run(t.Context(), cfg, w.repo); !errors.Is(err, repo.ErrDamaged) {
			t.Errorf("%v, want damage", err)
		}
		if _, err = os.Lstat(filepath.Join(cfg.Dir, pgdata.ControlPath)); err == nil {
			t.Error("a cluster was made of a damaged backup")
		}
		if i == 0 {
			proof, failed := proof.Run(t.Context(), proof.Config{Dir: w.home, RestoreCommand: w.fetchCommand(), Installation: w.in, Logger: quietly()}, w.repo)
			if failed != nil || proof.OK || !strings.Contains(proof.Detail, "damaged") {
				t.Errorf("%+v, %v: a proof that fails was to be had", proof, failed)
			}
		}
		must(t, os.WriteFile(pack, sound, 0o600))
		_, err = restore.Run(t.Context(), cfg, w.repo)
		must(t, err)
	}
}
