package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"rootstream/errs"
	"rootstream/event/codec"
	"rootstream/internal/wait"
	"rootstream/postgres"
)

const (
	eraseLock = 17 // second key of the lock that keeps snapshots, retention and erasure apart; 16 is the import's
	maxState  = 16 << 20
)

// At says which state is meant: the one at a version, else at a time, else now.
type At struct {
	Version int64
	Time    time.Time
}

// State is what an entity's events made of it.
type State struct {
	Entity  Ref            `json:"-"`
	Version int64          `json:"version"`
	At      time.Time      `json:"at"` // of the event that made it so
	Data    map[string]any `json:"state"`
}

// State returns the entity's state: the nearest snapshot and the events after
// it, or all events. It fails with [ErrNotFound] if the entity has no such
// version or no event by then, with [ErrPruned] if what it takes is not kept.
func (s *Store) State(ctx context.Context, r Ref, at At) (State, error) {
	target, err := s.versionAt(ctx, r, at)
	if err != nil {
		return State{}, err
	}
	f, err := s.folded(ctx, r, target)
	if err != nil {
		return State{}, err
	}
	_, data, err := f.canonical()
	return State{r, f.version, f.at, data}, err
}

// folded makes the state that an entity had at a version.
func (s *Store) folded(ctx context.Context, r Ref, version int64) (*folding, error) {
	for again := false; ; again = true {
		f, err := s.base(ctx, r, version)
		if err == nil {
			err = s.onTo(ctx, f, version)
		}
		if again || !errors.Is(err, errHole) { // else retention may have come in between, which leaves a newer snapshot
			return f, err
		}
	}
}

var errHole = errors.New("it is missing") // a fault that Verify reports

// onTo brings a state to a version.
func (s *Store) onTo(ctx context.Context, f *folding, version int64) error {
	if err := s.replay(ctx, f, version, f.add); err != nil {
		return err
	}
	if f.version != version {
		return s.missing(ctx, f.entity, version)
	}
	if !f.known {
		return ErrPruned
	}
	return nil
}

func (s *Store) versionAt(ctx context.Context, r Ref, at At) (v int64, err error) {
	switch {
	case at.Version != 0:
		return at.Version, nil
	case at.Time.IsZero():
		v, err = s.Version(ctx, r)
	default:
		err = s.db.QueryRow(ctx, `select coalesce((select version from events where aggregate_type = $1 and aggregate_id = $2 and at <= $3
			order by version desc limit 1), 0)`, r.Type, r.ID, at.Time).Scan(&v)
	}
	if err != nil {
		return 0, fmt.Errorf("find the version of %s: %w", r, err)
	}
	if v == 0 {
		return 0, s.missing(ctx, r, 1)
	}
	return v, nil
}

// missing tells why r's version cannot be reached.
func (s *Store) missing(ctx context.Context, r Ref, version int64) error {
	var pruned bool
	err := s.db.QueryRow(ctx, `select coalesce(min(version) > 1 and max(version) >= $3, false) from events
		where aggregate_type = $1 and aggregate_id = $2`, r.Type, r.ID, version).Scan(&pruned)
	if err != nil {
		return fmt.Errorf("look for %s version %d: %w", r, version, err)
	}
	if pruned {
		return ErrPruned
	}
	return ErrNotFound
}

// folding is a state in the making.
type folding struct {
	entity  Ref
	fold    Fold
	state   map[string]any
	version int64
	at      time.Time
	known   bool // whether the state is that of all events up to version
	tail    int  // events after the snapshot that were read together with other entities'
}

// start is the state before the first event.
func (s *Store) start(r Ref) *folding {
	return &folding{entity: r, fold: s.schema.fold(r.Type).fold, state: map[string]any{}, known: true}
}

// base returns the state of the newest snapshot up to a version that can be
// read, or of no event. A broken snapshot is for [Store.Verify] to report.
func (s *Store) base(ctx context.Context, r Ref, version int64) (*folding, error) {
	for version > 0 {
		shot, err := s.snapshots(ctx, `aggregate_type = $1 and aggregate_id = $2 and version <= $3 and fold = $4
			order by version desc limit 1`, r.Type, r.ID, version, s.schema.fold(r.Type).version)
		if err != nil {
			return nil, err
		}
		if len(shot) == 0 {
			break
		}
		if content, err := s.schema.open(shot[0]); err == nil {
			state, err := decode(content)
			f := s.start(r)
			f.state, f.version, f.at = state, shot[0].Version, shot[0].At
			return f, err
		}
		version = shot[0].Version - 1
	}
	return s.start(r), nil
}

// replay hands f's entity's events after f's version, up to another, to add.
func (s *Store) replay(ctx context.Context, f *folding, to int64, add func(Event) error) error {
	err := s.each(ctx, add, `select `+columns+` from events
		where aggregate_type = $1 and aggregate_id = $2 and version > $3 and version <= $4 order by version`,
		f.entity.Type, f.entity.ID, f.version, to)
	if err != nil {
		return fmt.Errorf("replay %s: %w", f.entity, err)
	}
	return nil
}

// add brings the state to e's version.
func (f *folding) add(e Event) error {
	if e.Version != f.version+1 {
		if f.version > 0 {
			return fmt.Errorf("version %d: %w", f.version+1, errHole)
		}
		f.known = false
	}
	f.version, f.at = e.Version, e.At
	if e.Erases() {
		f.state, f.known = map[string]any{}, true
	}
	if e.Erased() {
		if !e.is(".deleted") {
			return nil
		}
		e.Data = json.RawMessage("{}") // the end of an entity stays its end
	}
	if !f.known {
		return nil
	}
	state, err := f.fold(f.state, e)
	if err != nil {
		return fmt.Errorf("fold version %d: %w", e.Version, err)
	}
	f.state = state
	return nil
}

// content returns the state as JSON.
func (f *folding) content() ([]byte, error) {
	content, err := appendJSON(make([]byte, 0, 64), f.state, 0)
	if err != nil {
		return nil, fmt.Errorf("the state of %s is not JSON: %w", f.entity, err)
	}
	return content, nil
}

// canonical returns the state as JSON, and as it reads from there.
func (f *folding) canonical() ([]byte, map[string]any, error) {
	content, err := f.content()
	if err != nil {
		return nil, nil, err
	}
	state, err := decode(content)
	return content, state, err
}

// snapshot is a row of event_snapshots.
type snapshot struct {
	AggregateType string
	AggregateID   uuid.UUID
	Version       int64
	Fold          int
	Codec         int
	SHA256        []byte
	State         []byte
	At            time.Time
}

func (s snapshot) ref() Ref { return Ref{s.AggregateType, s.AggregateID} }

func (s *Store) snapshots(ctx context.Context, where string, args ...any) ([]snapshot, error) {
	rows, err := s.db.Query(ctx, `select aggregate_type, aggregate_id, version, fold, codec, sha256, state, at
		from event_snapshots where `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read snapshots: %w", err)
	}
	shots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[snapshot])
	if err != nil {
		return nil, fmt.Errorf("read snapshots: %w", err)
	}
	return shots, nil
}

// open returns the JSON in a snapshot.
func (s *Schema) open(shot snapshot) ([]byte, error) {
	c, err := s.codec()
	if err != nil {
		return nil, err
	}
	if shot.Codec != codec.Version {
		return nil, codec.ErrFormat
	}
	content, err := c.Decode(codec.Aggregate, shot.State)
	if err == nil && string(codec.Sum(content)) != string(shot.SHA256) {
		err = codec.ErrHash
	}
	return content, err
}

const (
	maxShots = 64 // snapshots written together
	maxDue   = 4  // versions of an entity that become due until one is written
)

// dues are the versions whose states are to be kept, the newest of each entity.
type dues struct {
	mu    sync.Mutex
	due   map[Ref]due
	order []Ref // who has waited longest comes first
	some  chan struct{}
}

// due is the newest version of an entity of those that became due, and how many did.
type due struct {
	version int64
	times   int
}

func newDues() dues { return dues{due: map[Ref]due{}, some: make(chan struct{}, 1)} }

func (d *dues) add(r Ref, version int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was, waits := d.due[r]
	if !waits {
		if len(d.order) == maxWaiting { // the next version that is due will do
			return
		}
		d.order = append(d.order, r)
	}
	d.due[r] = due{max(was.version, version), was.times + 1}
	wait.Wake(d.some)
}

func (d *dues) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.order)
}

// take removes some of them, and tells whether they are late. They come in the order of their names: instances that write
// those of the same entities at a time would else wait for each other in a circle.
func (d *dues) take() (entities []Ref, versions []int64, late bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.order), maxShots)
	late = len(d.order) > maxWaiting/2
	entities, d.order = slices.Clone(d.order[:n]), d.order[n:]
	slices.SortFunc(entities, Ref.Compare)
	for _, r := range entities {
		versions = append(versions, d.due[r].version)
		late = late || d.due[r].times >= maxDue
		delete(d.due, r)
	}
	if len(d.order) > 0 {
		wait.Wake(d.some)
	}
	return entities, versions, late
}

// writeSnapshots writes what becomes due until ctx ends.
func (l *Log) writeSnapshots(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.due.some:
		}
		begun := time.Now()
		late := l.writeSome(ctx)
		_ = wait.For(ctx, rest(time.Since(begun), late))
	}
}

// rest is how long to do nothing after work: a snapshot can wait for some of the entity's next due versions, those who append
// should not. But if it has, more become due than that allows for: what each of them has to read would only grow.
func rest(worked time.Duration, late bool) time.Duration {
	if late {
		return 0
	}
	return 3 * worked
}

// writeSome writes some of what is due: together, as many cost little more than one. It may be nothing, if what has woken
// us was taken with what was due before. It tells whether they are late.
func (l *Log) writeSome(ctx context.Context) (late bool) {
	entities, versions, late := l.due.take()
	if len(entities) == 0 {
		return late
	}
	err := l.keep(ctx, entities, versions)
	if len(entities) == 1 {
		l.notKept(ctx, entities[0], versions[0], err)
		return late
	}
	down := 0
	for i := 0; err != nil && i < len(entities) && down < 2; i++ { // the fault of one of them, or the database is not there
		failed := l.keep(ctx, entities[i:i+1], versions[i:i+1])
		l.notKept(ctx, entities[i], versions[i], failed)
		if down++; errs.KindOf(failed) != errs.Unavailable {
			down = 0
		}
	}
	return late
}

func (l *Log) notKept(ctx context.Context, r Ref, version int64, err error) {
	if err != nil && ctx.Err() == nil {
		l.cfg.Logger.WarnContext(ctx, "no snapshot was written", "entity", r.String(), "version", version, "err", err)
	}
}

// keep stores the states of entities at versions, and removes their older snapshots, but for the oldest of one if the
// events before it are gone.
func (l *Log) keep(ctx context.Context, entities []Ref, versions []int64) error {
	return l.cfg.DB.InTx(ctx, func(tx *postgres.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock_shared($1, $2), "+byIndex, lockSpace, eraseLock); err != nil {
			return err
		}
		shots, err := l.shots(ctx, NewStore(tx).With(l.cfg.Schema), entities, versions)
		if err != nil {
			return err
		}
		types, ids := of(shots, func(s snapshot) string { return s.AggregateType }), of(shots, func(s snapshot) uuid.UUID { return s.AggregateID })
		folds := of(shots, func(s snapshot) int { return s.Fold })
		b := &pgx.Batch{}
		b.Queue(putSnapshots, types, ids, of(shots, func(s snapshot) int64 { return s.Version }), folds,
			of(shots, func(s snapshot) int { return s.Codec }), of(shots, func(s snapshot) []byte { return s.SHA256 }),
			of(shots, func(s snapshot) []byte { return s.State }), of(shots, func(s snapshot) time.Time { return s.At }))
		b.Queue(dropSnapshots, types, ids, folds, l.cfg.KeepSnapshots)
		return tx.SendBatch(ctx, b).Close()
	})
}

const (
	putSnapshots = `insert into event_snapshots (aggregate_type, aggregate_id, version, fold, codec, sha256, state, at)
		select * from unnest($1::text[], $2::uuid[], $3::bigint[], $4::int[], $5::int[], $6::bytea[], $7::bytea[], $8::timestamptz[])
		on conflict do nothing`
	// What is asked of an entity is asked once, and by index: joined in another way, the snapshots of all would be read.
	dropSnapshots = `delete from event_snapshots where ctid = any (array(
		select k.ctid from unnest($1::text[], $2::uuid[], $3::int[]) r (type, id, fold)
		cross join lateral (select array(select version from event_snapshots n
				where n.aggregate_type = r.type and n.aggregate_id = r.id and n.fold = r.fold order by version desc limit $4) as newest,
			(select min(version) from events e where e.aggregate_type = r.type and e.aggregate_id = r.id) as first offset 0) has
		cross join lateral (select ctid, version, fold from event_snapshots s
			where s.aggregate_type = r.type and s.aggregate_id = r.id offset 0) k
		where k.version <> all (has.newest) and (has.first = 1 or k.version > (select min(version) from event_snapshots o
			where o.aggregate_type = r.type and o.aggregate_id = r.id and o.fold = k.fold))))`
)

// shots makes snapshots of entities at versions.
func (l *Log) shots(ctx context.Context, store *Store, entities []Ref, versions []int64) ([]snapshot, error) {
	c, err := l.cfg.Schema.codec()
	if err != nil {
		return nil, err
	}
	foldings, err := store.foldings(ctx, entities, versions)
	if err != nil {
		return nil, err
	}
	shots := make([]snapshot, len(entities))
	for i, f := range foldings {
		switch {
		case f == nil || !f.known:
			f, err = store.folded(ctx, entities[i], versions[i])
		case f.version != versions[i]: // there is too much to read it all with others, or too little
			err = store.onTo(ctx, f, versions[i])
		}
		if err != nil {
			return nil, err
		}
		content, err := f.content()
		if err != nil {
			return nil, err
		}
		r := f.entity
		shots[i] = snapshot{
			r.Type, r.ID, f.version, l.cfg.Schema.fold(r.Type).version, codec.Version, codec.Sum(content),
			c.Encode(codec.Aggregate, content), f.at,
		}
	}
	return shots, nil
}
