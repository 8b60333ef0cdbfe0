package receive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rootstream/backup/archive/ledger"
	"rootstream/backup/replication"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/errs"
	"rootstream/internal/flock"
	"rootstream/internal/wait"
)

// Config shapes a Receiver. DSN, Spool and Open are required.
type Config struct {
	DSN        string        // of the server, or of several: then the one that is to be followed
	Slot       string        // permanent physical replication slot, made if it is missing; empty means rootstream
	Temporary  bool          // the slot goes with its connection: for a receiver that runs beside one backup
	Name       string        // application_name, for synchronous_standby_names; empty means the slot's name
	Spool      string        // folder for what is not uploaded yet
	SpoolMax   int64         // bytes it holds before we stop to acknowledge; 0 means 4 GiB
	Remote     bool          // acknowledge what is in the repository, not what is in the spool
	PieceEvery time.Duration // how often a piece of the open segment is uploaded; 0 means 250 ms
	Patience   time.Duration // how long a server may be silent; 0 means 15 s

	Open   func(context.Context) (*repo.Repo, error) // opens the repository; asked again until it succeeds
	Alarm  func(context.Context, error)              // is told of gaps and of what the repository refuses; may be nil
	Logger *slog.Logger                              // nil means slog.Default
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func (c Config) withDefaults() Config {
	c.Slot = cmp.Or(c.Slot, "rootstream")
	c.Name = cmp.Or(c.Name, c.Slot)
	c.SpoolMax = cmp.Or(c.SpoolMax, 4<<30)
	c.PieceEvery = cmp.Or(c.PieceEvery, 250*time.Millisecond)
	c.Patience = cmp.Or(c.Patience, 15*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.Default()).With("component", "wal")
	if c.Alarm == nil {
		c.Alarm = func(context.Context, error) {}
	}
	return c
}

func (c Config) validate() error {
	var f errs.Fields
	if c.DSN == "" {
		f.Add("dsn", "is required")
	}
	if !filepath.IsAbs(c.Spool) {
		f.Add("spool", "must be an absolute path")
	}
	if !slotName.MatchString(c.Slot) {
		f.Add("slot", "must be lower case letters, digits and underscores")
	}
	if c.SpoolMax < 2*wal.MinSegmentSize {
		f.Add("spool_max", "must be at least 2 MiB")
	}
	if c.PieceEvery < time.Millisecond || c.Patience < 100*time.Millisecond {
		f.Add("piece_every", "must be at least 1ms, and the patience 100ms")
	}
	if c.Open == nil {
		f.Add("open", "is required")
	}
	return f.Err()
}

// What a Receiver is doing.
const (
	Connecting = "connecting"
	Streaming  = "streaming"
	SpoolFull  = "spool full" // nothing is received and acknowledged until something was uploaded
	Stopped    = "stopped"
)

// State is how a Receiver stands.
type State struct {
	Doing      string         `json:"doing"`
	Slot       string         `json:"slot"`
	SystemID   uint64         `json:"system_id"`
	Timeline   wal.TimelineID `json:"timeline"`
	Server     wal.LSN        `json:"server_lsn"`   // as it last said
	Received   wal.LSN        `json:"received_lsn"` // of it written to the spool
	Durable    wal.LSN        `json:"durable_lsn"`  // of it on disk there
	Uploaded   wal.LSN        `json:"uploaded_lsn"` // of it in the repository
	Spooled    int64          `json:"spooled_bytes"`
	Heard      time.Time      `json:"heard_at"`    // when the server last said something
	UploadedAt time.Time      `json:"uploaded_at"` // when something was last uploaded, or found to be
	Gaps       int            `json:"gaps"`        // since the start
	Refused    int            `json:"refused"`     // files that the repository did not take, since the start
	LastError  string         `json:"last_error,omitempty"`
	ErrorAt    time.Time      `json:"error_at,omitzero"`
}

// Receiver streams write-ahead log from a server into a repository. There is one for a cluster: PostgreSQL lets nobody
// else use its slot at the same time.
type Receiver struct {
	cfg  Config
	root *os.Root // the folder of the spools, while it runs

	mu         sync.Mutex
	state      State
	uploadedOn wal.TimelineID     // state.Uploaded is a position on this timeline
	poke       context.CancelFunc // makes the receiving loop look up
	spools     map[uint64]*spool

	begun map[wal.TimelineID]bool // timelines whose history was kept; the receiving loop's own

	files chan struct{} // there is a whole file to upload
	more  chan struct{} // more of the open segment is on disk
	room  chan struct{} // something left the spool
}

// New checks cfg.
func New(cfg Config) (*Receiver, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Receiver{
		cfg: cfg, state: State{Doing: Stopped, Slot: cfg.Slot}, spools: map[uint64]*spool{}, begun: map[wal.TimelineID]bool{},
		poke: func() {}, files: make(chan struct{}, 1), more: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}, nil
}

// State returns how the receiver stands.
func (r *Receiver) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.state
	for _, s := range r.spools {
		st.Spooled += s.bytes()
	}
	return st
}

func (r *Receiver) change(fn func(*State)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(&r.state)
}

// note keeps an error for people who ask.
func (r *Receiver) note(ctx context.Context, what string, err error) {
	r.cfg.Logger.WarnContext(ctx, "the archive of the write-ahead log is in trouble", "what", what, "err", err)
	r.change(func(s *State) { s.LastError, s.ErrorAt = what+": "+err.Error(), time.Now().UTC() })
}

// Run receives and uploads until ctx ends, over any number of connections. It fails for what a person must decide:
// a spool that is in use or cannot be read, and a server that sends other content than before.
func (r *Receiver) Run(ctx context.Context) error {
	root, err := openFolder(r.cfg.Spool)
	if err != nil {
		return ErrSpool.WithCause(err).WithHint("name a folder for it: backup.spool")
	}
	defer func() { _ = root.Close() }()
	lock, err := root.OpenFile("lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return ErrSpool.WithCause(err)
	}
	if err := flock.Try(lock); err != nil {
		_ = lock.Close()
		return ErrSpool.WithCause(fmt.Errorf("%s: %w", r.cfg.Spool, err)).
			WithHint("one process receives the log on this machine already; another needs a folder of its own: backup.spool")
	}
	defer func() { _ = flock.Release(lock) }()
	r.root = root
	if err := r.findSpools(); err != nil {
		return err
	}
	defer r.closeSpools()
	defer r.change(func(s *State) { s.Doing = Stopped })
	group, run := errgroup.WithContext(ctx)
	group.Go(func() error { return r.receive(run) })
	group.Go(func() error { return r.upload(run) })
	if err := group.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// findSpools takes up what was not uploaded, also of a server that is no more.
func (r *Receiver) findSpools() error {
	entries, err := fs.ReadDir(r.root.FS(), ".")
	if err != nil {
		return ErrSpool.WithCause(err)
	}
	for _, e := range entries {
		system, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil || !e.IsDir() {
			continue
		}
		if _, err := r.spoolOf(system); err != nil {
			return err
		}
	}
	return nil
}

func (r *Receiver) spoolOf(system uint64) (*spool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.spools[system]; s != nil {
		return s, nil
	}
	name := strconv.FormatUint(system, 10)
	if err := r.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, ErrSpool.WithCause(err)
	}
	root, err := r.root.OpenRoot(name)
	if err != nil {
		return nil, ErrSpool.WithCause(err)
	}
	s, err := openSpool(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := syncDir(r.root); err != nil {
		return nil, ErrSpool.WithCause(err)
	}
	s.wake = r.files
	r.spools[system] = s
	return s, nil
}

func (r *Receiver) closeSpools() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spools {
		s.close()
	}
}

const longestPause = 5 * time.Second

// receive keeps a connection, with growing pauses between those that bring nothing.
func (r *Receiver) receive(ctx context.Context) error {
	const shortest = 50 * time.Millisecond
	for pause := shortest; ; pause = min(2*pause, longestPause) {
		before := r.State().Received
		r.change(func(s *State) { s.Doing = Connecting })
		err := r.connection(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrDiverged) {
			r.cfg.Alarm(ctx, err)
			return err
		}
		if err != nil {
			r.note(ctx, "receiving was interrupted", err)
		}
		if err == nil || r.State().Received > before {
			pause = shortest
		}
		if err != nil && wait.For(ctx, pause) != nil {
			return ctx.Err()
		}
	}
}

// connection streams over one connection, to the end of a timeline (nil) or until something breaks.
func (r *Receiver) connection(ctx context.Context) error {
	l, err := dial(ctx, r.cfg.DSN, r.cfg.Name)
	if err != nil {
		return err
	}
	defer l.close(ctx)
	s, err := r.spoolOf(l.server.ID)
	if err != nil {
		return err
	}
	err = r.keepHistories(ctx, l, s)
	if err == nil {
		err = l.reserve(ctx, r.cfg.Slot, r.cfg.Temporary)
	}
	if err != nil {
		return err
	}
	tli, at, err := r.position(ctx, l, s)
	if err != nil {
		return err
	}
	end, err := l.start(ctx, r.cfg.Slot, tli, at)
	if err == nil && end == nil {
		r.attach(l, s, tli)
		r.cfg.Logger.InfoContext(ctx, "receiving write-ahead log", "slot", r.cfg.Slot, "timeline", tli, "from", at.String())
		end, err = r.stream(ctx, l, s)
	}
	if err != nil {
		return r.remedy(ctx, s, err)
	}
	r.cfg.Logger.InfoContext(ctx, "the server went on to another timeline", "from", tli, "to", end.tli, "at", end.at.String())
	return s.begin(end.tli, end.at)
}

// attach notes what is streamed now. What this process has on disk of the open segment stays true.
func (r *Receiver) attach(l *link, s *spool, tli wal.TimelineID) {
	durable := s.onDisk()
	r.change(func(st *State) {
		if r.uploadedOn != tli {
			r.uploadedOn, st.Uploaded = tli, 0
		}
		st.SystemID, st.Timeline, st.Doing, st.Heard = l.server.ID, tli, Streaming, time.Now().UTC()
		st.Received, st.Durable, st.Server = durable, durable, l.server.Flushed
	})
}

// keepHistories archives the history of the server's timeline and of those it descends from: whoever archives from today
// on needs those of before as well.
func (r *Receiver) keepHistories(ctx context.Context, l *link, s *spool) error {
	if r.begun[l.server.Timeline] {
		return nil
	}
	text, err := l.history(ctx, l.server.Timeline)
	if err != nil || l.server.Timeline < 2 {
		return err
	}
	h, err := wal.ParseHistory(l.server.Timeline, text)
	if err != nil {
		return err
	}
	for _, b := range h {
		text, err := l.history(ctx, b.Timeline)
		if err != nil {
			return err
		}
		if text == nil {
			continue // the first has none, and an old one may be gone
		}
		if err := s.keepHistory(b.Timeline, text); err != nil {
			return fmt.Errorf("keep the history of timeline %d: %w", b.Timeline, err)
		}
	}
	r.begun[l.server.Timeline] = true
	return nil
}

func (l *link) lineage(ctx context.Context) (wal.History, error) {
	text, err := l.history(ctx, l.server.Timeline)
	if err != nil {
		return nil, err
	}
	return wal.ParseHistory(l.server.Timeline, text)
}

// position says where to go on: where the spool ends, or on the timeline that the server has taken since.
func (r *Receiver) position(ctx context.Context, l *link, s *spool) (wal.TimelineID, wal.LSN, error) {
	tli, at, err := s.resume(l.size)
	if err != nil {
		return 0, 0, err
	}
	if tli == 0 {
		if tli, at, err = r.first(ctx, l); err != nil {
			return 0, 0, err
		}
		return tli, at, s.begin(tli, at)
	}
	if tli == l.server.Timeline {
		return tli, at, nil
	}
	if tli > l.server.Timeline {
		return 0, 0, ErrBehind.WithCause(fmt.Errorf("timeline %d after %d", l.server.Timeline, tli))
	}
	h, err := l.lineage(ctx)
	if err != nil {
		return 0, 0, err
	}
	next, ok := leave(h, tli, s.reached())
	if !ok {
		return tli, at, nil // the server has the rest of the timeline
	}
	r.cfg.Logger.WarnContext(ctx, "the server never had the end of the timeline that was received", "timeline", tli, "it_left_at", next.at.String(), "received", s.reached().String())
	if err := s.begin(next.tli, next.at); err != nil {
		return 0, 0, err
	}
	return next.tli, next.at.SegmentStart(l.size), nil
}

// leave says where to leave a timeline that was received up to reached for the history of the server; not at all if
// the server's history contains all of that.
func leave(h wal.History, tli wal.TimelineID, reached wal.LSN) (branchOff, bool) {
	if h.Contains(tli, reached) {
		return branchOff{}, false
	}
	for _, b := range h {
		if b.Timeline > tli {
			return branchOff{b.Timeline, b.Begin}, true
		}
	}
	return branchOff{h.Timeline(), h[len(h)-1].Begin}, true
}

// first says where to begin with an empty spool: where the repository ends on the way to the server's timeline, else
// where the slot does, else now. After a failover that is on the timeline of before: the slot is younger than the end
// of what the lost machine sent, and the new primary has what lies between.
func (r *Receiver) first(ctx context.Context, l *link) (wal.TimelineID, wal.LSN, error) {
	h, err := l.lineage(ctx)
	if err != nil {
		return 0, 0, err
	}
	look, cancel := context.WithTimeout(ctx, longestPause)
	defer cancel()
	if rp, closed := r.cfg.Open(look); closed == nil {
		if tli, end, unknown := ledger.LastWhole(look, rp, l.server.ID, h, l.size); unknown == nil && end != 0 {
			return tli, end, nil
		}
	}
	slot, err := r.slot(ctx)
	if err != nil {
		return 0, 0, err
	}
	at := cmp.Or(slot.RestartLSN, l.server.Flushed)
	return h.At(at), at.SegmentStart(l.size), nil
}

// remedy turns what the server said into what can be done about it.
func (r *Receiver) remedy(ctx context.Context, s *spool, cause error) error {
	if !replication.HasState(cause, undefinedFile, wrongState) {
		return cause
	}
	slot, err := r.slot(ctx)
	if err != nil {
		return errors.Join(cause, err)
	}
	again, err := dial(ctx, r.cfg.DSN, r.cfg.Name) // the other one is in an unknown state
	if err != nil {
		return errors.Join(cause, err)
	}
	defer again.close(ctx)
	if slot.Lost() {
		r.note(ctx, "the server gave up the replication slot", cause)
	}
	if slot.Lost() || r.cfg.Temporary { // the error took a temporary one: a new one has what a backup that has begun needs
		if slot, err = r.renewSlot(ctx, again); err != nil {
			return errors.Join(cause, err)
		}
	}
	if !replication.HasState(cause, undefinedFile) {
		return cause // with a slot of our own it may still have everything
	}
	return r.skip(ctx, again, s, cmp.Or(slot.RestartLSN, again.server.Flushed))
}

func (r *Receiver) renewSlot(ctx context.Context, l *link) (ledger.Slot, error) {
	if err := l.dropSlot(ctx, r.cfg.Slot); err != nil {
		return ledger.Slot{}, err
	}
	if err := l.reserve(ctx, r.cfg.Slot, r.cfg.Temporary); err != nil {
		return ledger.Slot{}, err
	}
	return r.slot(ctx)
}

// skip goes on behind what the server no longer has.
func (r *Receiver) skip(ctx context.Context, l *link, s *spool, at wal.LSN) error {
	from, to := s.tail(), at.SegmentStart(l.size)
	if to <= from.start {
		to = l.server.Flushed.SegmentStart(l.size)
	}
	h, err := l.lineage(ctx)
	if err != nil {
		return err
	}
	gap := ledger.Gap{Range: wal.Range{Timeline: from.tli, From: s.reached(), To: to}}
	if err := s.begin(h.At(to), to); err != nil {
		return fmt.Errorf("go on behind the gap: %w", err)
	}
	if r.cfg.Temporary { // its backup has all it needs; before that nobody was to keep anything
		r.cfg.Logger.InfoContext(ctx, "nothing archives from the server between backups: it can be restored to each, not to moments between",
			"missing", gap.String())
		return nil
	}
	r.change(func(st *State) { st.Gaps++ })
	r.note(ctx, "write-ahead log is lost: take a full backup", gap.Err())
	r.cfg.Alarm(ctx, gap.Err())
	return nil
}
