package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rootstream/backup/archive/ledger"
	"rootstream/pgserver"
)

// small is a small file system of its own that is mounted on a folder. Only what shell runs sees it.
type small struct {
	s     *bucketSite
	dir   string
	shell *exec.Cmd
	in    io.WriteCloser
	out   *output
	steps int
}

// newSmall mounts one with these options. Root may mount; everybody else may in a user namespace, where they are root.
func newSmall(t *testing.T, s *bucketSite, options string) *small {
	t.Helper()
	m := &small{s: s, dir: filepath.Join(s.dir, "small"), out: &output{}}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m.shell = s.command(s.env, "x")
	m.shell.Path, m.shell.Args = "/bin/sh", []string{"sh"}
	m.shell.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		m.shell.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
	}
	m.shell.Stdout, m.shell.Stderr = m.out, m.out
	in, err := m.shell.StdinPipe()
	if err == nil {
		err = m.shell.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	m.in = in
	t.Cleanup(func() {
		_ = in.Close()
		if err := m.shell.Wait(); err != nil {
			t.Errorf("the shell: %v", err)
		}
		if t.Failed() {
			t.Logf("it said:\n%s", m.out)
		}
	})
	if code, out := m.run("mount -t tmpfs -o mode=755," + options + " tmpfs " + m.dir); code != 0 {
		t.Fatalf("mount: %s", out)
	}
	return m
}

// run runs a command of the shell, and returns how it ended and what was said.
func (m *small) run(command string) (code int, out string) {
	m.s.t.Helper()
	m.steps++
	from, end := len(m.out.String()), fmt.Sprintf("\nstep %d ended with ", m.steps)
	if _, err := fmt.Fprintf(m.in, "%s; printf '\\nstep %d ended with %%d.\\n' $?\n", command, m.steps); err != nil {
		m.s.t.Fatal(err)
	}
	within(m.s.t, command, func() bool {
		said, rest, over := strings.Cut(m.out.String()[from:], end)
		text, _, whole := strings.Cut(rest, ".")
		if out = said; over && whole {
			_, err := fmt.Sscan(text, &code)
			return err == nil
		}
		return false
	})
	return code, out
}

// rootstream is a command line of the program.
func (m *small) rootstream(args string) string { return m.s.path + " " + args }

// resize makes it as large, with as many files.
func (m *small) resize(options string) {
	m.s.t.Helper()
	if code, out := m.run("mount -o remount," + options + " " + m.dir); code != 0 {
		m.s.t.Fatalf("resize: %s", out)
	}
}

func TestABackupThatFillsItsRepositoryIsNoBackupAndTheNextOneIs(t *testing.T) {
	t.Parallel()
	s := newBucketSite(t, "127.0.0.1:1")
	m := newSmall(t, s, "size=1m")
	repo := " --repo file://" + m.dir
	code, out := m.run(m.rootstream("backup create" + repo))
	if code != 6 || !strings.Contains(out, "the storage is full") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, out = m.run(m.rootstream("backup list -o json" + repo)); code != 0 || strings.TrimSpace(out) != "[]" {
		t.Errorf("listed is, with exit code %d: %s", code, out)
	}
	m.resize("size=400m")
	for _, args := range []string{"backup create", "backup verify", "backup create --type incremental", "backup verify", "backup prune --yes"} {
		if code, out := m.run(m.rootstream(args + repo)); code != 0 {
			t.Errorf("%s, with room again: exit code %d: %s", args, code, out)
		}
	}
}

func TestARestoreThatFillsItsTargetSaysSoAndGoesOnOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	s := newBucketSite(t, "127.0.0.1:1")
	m := newSmall(t, s, "size=1m")
	repo := " --repo file://" + filepath.Join(s.dir, "repo")
	if code, out := m.run(m.rootstream("backup create" + repo)); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	target := filepath.Join(m.dir, "data")
	restore := m.rootstream("backup restore latest --immediate --yes --to " + target + repo)
	if code, out := m.run(restore); code == 0 || !strings.Contains(out, "bytes and has") {
		t.Errorf("where there is no room: exit code %d: %s", code, out)
	}
	if code, out := m.run("ls -A " + m.dir + "/data 2>/dev/null | wc -l"); code != 0 || strings.TrimSpace(out) != "0" {
		t.Errorf("something was begun: %s", out)
	}
	m.resize("size=400m,nr_inodes=200") // room for the bytes, not for the files: that shows only on the way
	if code, out := m.run(restore); code != 6 && code != 5 || !strings.Contains(out, "run the same command again") {
		t.Errorf("where room ends on the way: exit code %d: %s", code, out)
	}
	if code, _ := m.run("test -e " + target + "/global/pg_control"); code == 0 {
		t.Error("a server would start on the half of it")
	}
	m.resize("nr_inodes=20000")
	if code, out := m.run(restore); code != 0 {
		t.Errorf("with room again: exit code %d: %s", code, out)
	}
	if code, _ := m.run("test -s " + target + "/global/pg_control"); code != 0 {
		t.Error("it is not whole")
	}
}

func TestAReceiverWhoseSpoolIsFullLosesNothing(t *testing.T) {
	t.Parallel()
	s := newBucketSite(t, "127.0.0.1:1")
	m := newSmall(t, s, "size=6m")
	repo := " --repo file://" + filepath.Join(s.dir, "repo")
	if code, out := m.run(m.rootstream("wal receive --spool " + filepath.Join(m.dir, "spool") + repo + " & PID=$!")); code != 0 {
		t.Fatal(out)
	}
	within(t, "the receiver has its slot", func() bool {
		return s.sql("select count(*)::text from pg_replication_slots where slot_name = 'rootstream_wal' and active") == "1"
	})
	s.exec("create table filler as select n, repeat(md5(n::text), 30) as text from generate_series(1, 30000) n")
	end := s.sql("select pg_current_wal_insert_lsn()::text")
	within(t, "it says that the disk is full", func() bool { return strings.Contains(m.out.String(), "the disk of the spool is full") })
	if held := s.sql("select (confirmed < '" + end + "'::pg_lsn)::text from (select restart_lsn as confirmed from pg_replication_slots) x"); held != "true" {
		t.Error("it acknowledges what it has no room for")
	}
	m.resize("size=200m")
	within(t, "everything is in the repository", func() bool {
		cmd := s.command(s.env, strings.Fields("wal status -o json"+repo)...)
		var out bytes.Buffer
		cmd.Stdout = &out
		var status []ledger.Status
		return cmd.Run() == nil && json.Unmarshal(out.Bytes(), &status) == nil && len(status) == 1 && status[0].Sound() &&
			s.sql("select ('"+status[0].Archived.String()+"'::pg_lsn >= '"+end+"'::pg_lsn)::text") == "true"
	})
	if code, out := m.run("kill -TERM $PID && wait $PID"); code != 0 {
		t.Errorf("it ends with %d: %s", code, out)
	}
	if err := s.Stop(t.Context(), pgserver.Fast); err != nil {
		t.Error(err)
	}
}
