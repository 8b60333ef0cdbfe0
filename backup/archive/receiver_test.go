package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/archive/receive"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/tests/harness"
)

func (r *receiving) streaming() {
	r.t.Helper()
	eventually(r.t, "it streams", func() bool { return r.State().Doing == receive.Streaming })
}

func TestEverythingIsReceivedAndTheOpenSegmentToo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	r, dir := newRepo(t)
	rc := start(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()}))
	rc.streaming()
	from := c.lsn().SegmentStart(size)
	c.write(5)
	at := c.lsn()
	rc.uploaded(at) // an idle server does not end its segment: what there is of it counts
	if err := contiguous(t, r, c.system(), wal.Range{Timeline: 1, From: from, To: at}); err != nil {
		t.Error(err)
	}
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	rc.uploaded(end)
	c.compare(r, c.system(), wal.Range{Timeline: 1, From: from, To: end})
	st := rc.State()
	if st.SystemID != c.system() || st.Timeline != 1 || st.LastError != "" || st.Gaps != 0 || st.Refused != 0 {
		t.Errorf("%+v", st)
	}
	slot, err := c.slot()
	if err != nil || !slot.Active || slot.RestartLSN < at || slot.Status != "reserved" {
		t.Errorf("%+v, %v", slot, err)
	}
	if lag := c.query("select coalesce(replay_lsn::text, 'none') from pg_stat_replication where application_name = 'rootstream'"); lag != "none" {
		t.Errorf("it claims to have applied up to %s", lag)
	}
}

// TestNothingIsLostWhateverIsKilled kills the receiver, the server or both at random moments, under load.
func TestNothingIsLostWhateverIsKilled(t *testing.T) {
	t.Parallel()
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := newCluster(t, nil)
	r, dir := newRepo(t)
	program := child{Repo: dir, Spool: folder(t), DSN: c.dsn()}
	l := c.load(3)
	from := c.lsn().SegmentStart(size)
	begin := time.Now()
	length := harness.Soak(t, 8*time.Second)
	for round := 0; time.Since(begin) < length; round++ {
		p := command(t, "receive", program)
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(harness.Between(rng, 200, 1500))
		if round > 0 && rng.IntN(2) == 0 { // not before there is a slot that keeps the log
			c.kill()
			c.start()
			<-time.After(harness.Between(rng, 10, 800))
		}
		_ = p.Process.Kill()
		_ = p.Wait()
	}
	l.stop()
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	rc := start(t, config(program))
	rc.uploaded(end)
	have, err := ledger.Load(t.Context(), r, c.system())
	if err != nil {
		t.Fatal(err)
	}
	entries := have.Entries()
	if len(entries) == 0 || entries[0].From > from+2*size || len(have.Gaps()) != 0 {
		t.Fatalf("from %v on there is %v", from, entries)
	}
	c.compare(r, c.system(), wal.Range{Timeline: 1, From: entries[0].From, To: end})
	t.Logf("%v of log, %d commits", end-from, l.count())
}

func TestATimelineIsFollowedToItsEndAndOnToTheNext(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"restore_command": "false"})
	r, dir := newRepo(t)
	rc := start(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()}))
	rc.streaming()
	from := c.lsn().SegmentStart(size)
	for tli := wal.TimelineID(2); tli <= 3; tli++ {
		c.write(2)
		c.stop()
		c.recoverAndPromote()
		c.write(2)
		eventually(t, "it is on the next timeline", func() bool { return rc.State().Timeline == tli })
	}
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	rc.uploaded(end)
	if err := contiguous(t, r, c.system(), wal.Range{Timeline: 3, From: from, To: end}); err != nil {
		t.Error(err)
	}
	l, err := ledger.Load(t.Context(), r, c.system())
	if err != nil || len(l.Gaps()) != 0 || len(l.Timelines) != 3 {
		t.Errorf("%v, %v", l.Entries(), err)
	}
	for tli := wal.TimelineID(2); tli <= 3; tli++ {
		want, err := os.ReadFile(filepath.Join(c.DataDir(), "pg_wal", wal.HistoryName(tli)))
		if err != nil {
			t.Fatal(err)
		}
		if have, err := r.GetWAL(t.Context(), c.system(), wal.HistoryName(tli)); err != nil || !bytes.Equal(have, want) {
			t.Errorf("history of %d: %q, %v", tli, have, err)
		}
	}
}

// TestHistoriesOfBeforeAreArchivedToo: who begins to archive on timeline 3 needs to know how it came about.
func TestHistoriesOfBeforeAreArchivedToo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"restore_command": "false"})
	for range 2 {
		c.stop()
		c.recoverAndPromote()
	}
	r, dir := newRepo(t)
	rc := start(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()}))
	rc.uploaded(c.lsn())
	for tli := wal.TimelineID(2); tli <= 3; tli++ {
		if _, err := r.GetWAL(t.Context(), c.system(), wal.HistoryName(tli)); err != nil {
			t.Error(err)
		}
	}
}

// TestAPromotedServerThatNeverHadTheEndIsFollowed: the receiver was further than the standby that took over.
func TestAPromotedServerThatNeverHadTheEndIsFollowed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"restore_command": "false"})
	r, dir := newRepo(t)
	rc := start(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()}))
	rc.streaming()
	c.write(1)
	c.stop()
	c.run("/bin/cp", "-a", c.DataDir(), c.DataDir()+".standby")
	c.start()
	c.write(3)
	reached := c.lsn()
	rc.uploaded(reached)
	c.kill()
	c.run("/bin/rm", "-r", c.DataDir())
	c.run("/bin/mv", c.DataDir()+".standby", c.DataDir())
	c.recoverAndPromote()
	c.write(2)
	rc.streaming()
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	eventually(t, "it follows timeline 2", func() bool { return rc.State().Timeline == 2 && rc.State().Uploaded >= end })
	h, err := r.GetWAL(t.Context(), c.system(), wal.HistoryName(2))
	if err != nil {
		t.Fatal(err)
	}
	history, err := wal.ParseHistory(2, h)
	if err != nil || history.Contains(1, reached) {
		t.Fatalf("%v, %v: the test is not about what it says", history, err)
	}
	c.compare(r, c.system(), wal.Range{Timeline: 2, From: history[1].Begin.SegmentStart(size), To: end})
	if err := contiguous(t, r, c.system(), wal.Range{Timeline: 1, From: history[1].Begin, To: reached}); err != nil {
		t.Errorf("what the lost primary had: %v", err)
	}
}

// TestAReceiverOfAnotherMachineGoesOnWhereTheLostOneEnded: its slot is younger than what it has to send.
func TestAReceiverOfAnotherMachineGoesOnWhereTheLostOneEnded(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"restore_command": "false"})
	r, dir := newRepo(t)
	lost := start(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()}))
	lost.streaming()
	from := c.lsn().SegmentStart(size)
	c.write(2)
	lost.uploaded(c.lsn())
	lost.stop()
	c.write(2)
	c.kill()
	c.recoverAndPromote()
	c.eventually("nobody uses the slot", func() bool {
		_, err := c.try("select pg_drop_replication_slot('rootstream')::text")
		return err == nil
	})
	c.write(3)
	c.query("checkpoint")
	c.write(1)
	rc := start(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()}))
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	eventually(t, "all of timeline 2 is there", func() bool { return rc.State().Timeline == 2 && rc.State().Uploaded >= end })
	if err := contiguous(t, r, c.system(), wal.Range{Timeline: 2, From: from, To: end}); err != nil {
		t.Error(err)
	}
	if gaps := gapsOf(t, r, c.system()); len(gaps) > 0 {
		t.Errorf("%v", gaps)
	}
}

// TestAReceiverBesideABackupBeginsNoLaterThanItsCheckpoint: what the repository had before is long gone from the server.
func TestAReceiverBesideABackupBeginsNoLaterThanItsCheckpoint(t *testing.T) {
	t.Parallel()
	c := newCluster(t, map[string]string{"wal_keep_size": "0", "max_wal_size": "4MB"})
	r, dir := newRepo(t)
	cfg := config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()})
	cfg.Temporary = true
	before := start(t, cfg)
	before.streaming()
	c.write(2)
	before.uploaded(c.lsn())
	before.stop()
	for range 3 {
		c.write(3)
		c.query("checkpoint")
	}
	redo, err := wal.ParseLSN(c.query("select redo_lsn::text from pg_control_checkpoint()"))
	if err != nil {
		t.Fatal(err)
	}
	c.switchSegment()
	cfg.Spool = folder(t)
	rc := start(t, cfg)
	rc.streaming()
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	rc.uploaded(end)
	if err := contiguous(t, r, c.system(), wal.Range{Timeline: 1, From: redo, To: end}); err != nil {
		t.Error(err)
	}
	if said := rc.State().LastError; said != "" { // between backups nobody archives, and nothing is lost that was to be kept
		t.Errorf("it says %q", said)
	}
}

func TestALostSlotIsAGapThatIsTold(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*cluster){
		"dropped": func(c *cluster) { c.query("select pg_drop_replication_slot('rootstream')::text") },
		"given up by the server": func(c *cluster) {
			c.query("alter system set max_slot_wal_keep_size = '1MB'")
			c.query("select pg_reload_conf()::text")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, map[string]string{"wal_keep_size": "0", "max_wal_size": "4MB"})
			r, dir := newRepo(t)
			var told alarms
			cfg := config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()})
			cfg.Alarm = told.tell
			rc := start(t, cfg)
			rc.streaming()
			c.write(2)
			before := c.lsn()
			rc.uploaded(before)
			rc.stop()
			c.eventually("nobody uses the slot", func() bool {
				return c.query("select active::text from pg_replication_slots where slot_name = 'rootstream'") == "false"
			})
			lose(c)
			for range 3 {
				c.write(3)
				c.query("checkpoint")
			}
			again := start(t, cfg)
			c.eventually("the gap is told", func() bool { return told.told(ledger.ErrGap) })
			c.write(2)
			c.switchSegment()
			again.uploaded(c.lsn().SegmentStart(size))
			gaps := gapsOf(t, r, c.system())
			if len(gaps) != 1 || gaps[0].From > before+size || gaps[0].From < before.SegmentStart(size) || again.State().Gaps != 1 {
				t.Errorf("%v, %+v", gaps, again.State())
			}
			if err := contiguous(t, r, c.system(), wal.Range{Timeline: 1, From: before, To: c.lsn()}); !errors.Is(err, ledger.ErrGap) {
				t.Errorf("over the gap: %v", err)
			}
			if slot, err := c.slot(); err != nil || slot.Status == "lost" || slot.RestartLSN == 0 {
				t.Errorf("%+v, %v", slot, err)
			}
		})
	}
}

func TestARepositoryOutOfReachLosesNothingAndAFullSpoolHoldsBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	r, dir := newRepo(t)
	cfg := config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()})
	cfg.SpoolMax = 4 * size
	rc := start(t, cfg)
	rc.streaming()
	from := c.lsn().SegmentStart(size)
	c.write(1)
	rc.uploaded(c.lsn())
	mend := breakRepo(t, dir)
	c.write(2)
	at := c.lsn()
	c.eventually("the spool takes it", func() bool { return rc.State().Durable >= at })
	c.write(8)
	at = c.lsn()
	c.eventually("the spool is full", func() bool { return rc.State().Doing == receive.SpoolFull })
	if st := rc.State(); st.Durable >= at || st.LastError == "" || st.Uploaded >= at {
		t.Errorf("%+v", st)
	}
	if slot, err := c.slot(); err != nil || slot.RestartLSN >= at || !slot.Active {
		t.Errorf("what is not in the spool is acknowledged: %+v, %v", slot, err)
	}
	mend()
	rc.uploaded(at)
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	rc.uploaded(end)
	c.compare(r, c.system(), wal.Range{Timeline: 1, From: from, To: end})
	if st := rc.State(); st.Doing != receive.Streaming || st.Spooled >= cfg.SpoolMax {
		t.Errorf("%+v", st)
	}
}

// TestACommitWaitsForTheRepository: with Remote, and as the synchronous standby, what is acknowledged is in the repository.
func TestACommitWaitsForTheRepository(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	r, dir := newRepo(t)
	rc := start(t, config(child{Repo: dir, Spool: folder(t), DSN: c.dsn(), Remote: true}))
	rc.streaming()
	c.write(1)
	c.query("alter system set synchronous_standby_names = 'rootstream'")
	c.query("select pg_reload_conf()::text")
	c.eventually("it is the synchronous standby", func() bool {
		return c.query("select coalesce(max(sync_state), '') from pg_stat_replication") == "sync"
	})
	from := c.lsn()
	for i := range 20 {
		c.query(fmt.Sprintf("create table t%d ()", i))
		if err := contiguous(t, r, c.system(), wal.Range{Timeline: 1, From: from, To: c.lsn() - 1}); err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
	mend := breakRepo(t, dir)
	done := make(chan error, 1)
	go func() {
		_, err := c.try("create table blocked ()")
		done <- err
	}()
	c.eventually("the commit waits", func() bool {
		return c.query("select count(*)::text from pg_stat_activity where wait_event = 'SyncRep'") == "1"
	})
	mend()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestASlowServerDoesNotLeaveThousandsOfPieces(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	r, dir := newRepo(t)
	cfg := config(child{Repo: dir, Spool: folder(t), DSN: c.dsn(), Remote: true})
	cfg.PieceEvery = time.Millisecond
	rc := start(t, cfg)
	rc.streaming()
	c.switchSegment()
	c.query("create table slow (i int)")
	for i := range 300 {
		c.query(fmt.Sprintf("insert into slow values (%d)", i))
		rc.uploaded(c.lsn())
	}
	at := c.lsn()
	name := wal.SegmentName(1, at, size)
	list, err := r.PieceList(t.Context(), c.system(), name)
	if err != nil || len(list) == 0 || len(list) > 3*16 {
		t.Errorf("%d pieces, %v", len(list), err)
	}
	data, err := r.Pieces(t.Context(), c.system(), name)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(c.DataDir(), "pg_wal", name))
	if err != nil || !bytes.Equal(data, want[:len(data)]) || len(data) < int(at.Offset(size)) {
		t.Errorf("%d bytes of pieces differ from the server's %d, %v", len(data), at.Offset(size), err)
	}
}

func TestOneSpoolAndOneSlotServeOneReceiver(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	_, dir := newRepo(t)
	cfg := config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()})
	start(t, cfg).streaming()
	second, err := receive.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); !errors.Is(err, receive.ErrSpool) {
		t.Errorf("on the same spool: %v", err)
	}
	cfg.Spool = folder(t)
	other := start(t, cfg)
	c.eventually("it says why it gets nothing", func() bool { return strings.Contains(other.State().LastError, "is active") })
	if st := other.State(); st.Received != 0 {
		t.Errorf("%+v", st)
	}
}

// TestAServerThatSendsOtherLogOnTheSameTimelineStopsTheReceiver: somebody put an old copy of the data folder back.
func TestAServerThatSendsOtherLogOnTheSameTimelineStopsTheReceiver(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	_, dir := newRepo(t)
	var told alarms
	cfg := config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()})
	cfg.Alarm = told.tell
	rc := start(t, cfg)
	c.switchSegment()
	rc.uploaded(c.lsn())
	c.stop()
	c.run("/bin/cp", "-a", c.DataDir(), c.DataDir()+".old")
	c.start()
	c.query("create table one as select md5(i::text) from generate_series(1, 500) i")
	rc.uploaded(c.lsn())
	rc.stop()
	c.kill()
	c.run("/bin/rm", "-r", c.DataDir())
	c.run("/bin/mv", c.DataDir()+".old", c.DataDir())
	c.start()
	c.query("create table another as select md5((-i)::text) from generate_series(1, 500) i")
	again, err := receive.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Run(t.Context()); !errors.Is(err, receive.ErrDiverged) || !told.told(receive.ErrDiverged) {
		t.Errorf("%v, %v", err, told.all)
	}
}

// TestWhatTheRepositoryRefusesIsKeptAndTold: the rest goes on.
func TestWhatTheRepositoryRefusesIsKeptAndTold(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	r, dir := newRepo(t)
	var told alarms
	cfg := config(child{Repo: dir, Spool: folder(t), DSN: c.dsn()})
	cfg.Alarm = told.tell
	rc := start(t, cfg)
	rc.streaming()
	next := wal.SegmentName(1, c.lsn()+size, size)
	if err := r.PutWAL(t.Context(), c.system(), next, []byte("what somebody else archived under this name")); err != nil {
		t.Fatal(err)
	}
	c.write(3)
	rc.uploaded(c.lsn())
	if st := rc.State(); st.Refused != 1 || !told.told(repo.ErrWALConflict) {
		t.Errorf("%+v, %v", st, told.all)
	}
	aside, err := os.ReadFile(filepath.Join(cfg.Spool, fmt.Sprint(c.system()), next+".aside"))
	if err != nil {
		t.Fatal(err)
	}
	if want, err := os.ReadFile(filepath.Join(c.DataDir(), "pg_wal", next)); err != nil || !bytes.Equal(aside, want) {
		t.Errorf("what is kept is not what the server has, %v", err)
	}
}

// A power cut may leave zeros in the spool where log was to be, at its end or, where the disk wrote out of order, before it.
func TestZerosThatAPowerCutLeftAreNotTakenForLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	r, dir := newRepo(t)
	settings := child{Repo: dir, Spool: folder(t), DSN: c.dsn()}
	rc := start(t, config(settings))
	c.query("create table t as select g from generate_series(1, 1000) g")
	rc.uploaded(c.lsn())
	name := c.query("select pg_walfile_name(pg_current_wal_flush_lsn())")
	rc.stop()
	open := filepath.Join(settings.Spool, fmt.Sprint(c.system()), name+".open")
	whole, err := os.ReadFile(open)
	if err != nil || len(whole) < 20000 {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	pieces := func() []byte {
		t.Helper()
		data, broken := r.Pieces(t.Context(), c.system(), name)
		if broken != nil {
			t.Fatal(broken)
		}
		return data
	}
	forget := func() {
		t.Helper()
		list, broken := r.PieceList(t.Context(), c.system(), name)
		if broken = errors.Join(broken, r.DropPieces(t.Context(), list...)); broken != nil {
			t.Fatal(broken)
		}
	}

	// The server is gone: what is left in the spool is all there is.
	forget()
	if err = os.WriteFile(open, append(bytes.Clone(whole), make([]byte, 100000)...), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := settings
	gone.DSN = "host=/nowhere"
	rc = start(t, config(gone))
	eventually(t, "what is in the spool is uploaded", func() bool { return len(pieces()) > 0 })
	rc.stop()
	if have := pieces(); !bytes.Equal(have, bytes.TrimRight(whole, "\x00")) {
		t.Errorf("%d bytes were uploaded of %d that are log", len(have), len(whole))
	}

	// It is back: a hole is closed, in the repository as well.
	forget()
	torn := bytes.Clone(whole)
	clear(torn[8192:12288])
	if err = os.WriteFile(open, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	rc = start(t, config(gone))
	eventually(t, "what is in the spool is uploaded", func() bool { return len(pieces()) > 0 })
	rc.stop()
	rc = start(t, config(settings))
	eventually(t, "the hole is closed", func() bool {
		have := pieces()
		return len(have) >= len(whole) && bytes.Equal(have[:len(whole)], whole)
	})
	from := c.lsn().SegmentStart(size)
	c.switchSegment()
	end := c.lsn().SegmentStart(size)
	rc.uploaded(end)
	c.compare(r, c.system(), wal.Range{Timeline: 1, From: from, To: end})
}
