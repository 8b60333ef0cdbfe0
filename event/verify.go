package event

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Gap is a place where the log is not what it must be.
type Gap struct {
	Place string `json:"place"` // shard 3, or user:<uuid>
	After int64  `json:"after"` // the last number that is right
	Next  int64  `json:"next"`  // the number found instead of After+1
}

// Mismatch is a snapshot that is not what the events make.
type Mismatch struct {
	Entity  string `json:"entity"`
	Version int64  `json:"version"`
	Reason  string `json:"reason"`
}

// Findings are what a verification saw. It stops noting after a thousand.
type Findings struct {
	Gaps       []Gap      `json:"gaps"`
	Mismatches []Mismatch `json:"mismatches"`
	Events     int64      `json:"events"`
	Entities   int64      `json:"entities"`
	Snapshots  int64      `json:"snapshots"`
}

// OK reports whether nothing was wrong.
func (f Findings) OK() bool { return len(f.Gaps)+len(f.Mismatches) == 0 }

const (
	verifyChunk = 20_000 // rows of one statement
	maxFindings = 1000
)

// Verify proves that no shard lacks a sequence number and no entity a version,
// except where retention removed them, and that every snapshot is what the
// events make. It works in short statements and calls progress, if there is
// one, with what it has seen after each.
func (s *Store) Verify(ctx context.Context, progress func(Findings)) (Findings, error) {
	if progress == nil {
		progress = func(Findings) {}
	}
	v := &verification{Store: s, progress: progress, found: Findings{Gaps: []Gap{}, Mismatches: []Mismatch{}}}
	var err error
	if v.horizon, err = s.horizon(ctx); err != nil {
		return v.found, err
	}
	for shard := range Shards {
		if err := v.shard(ctx, shard); err != nil {
			return v.found, fmt.Errorf("verify shard %d: %w", shard, err)
		}
	}
	if err := v.entities(ctx); err != nil {
		return v.found, fmt.Errorf("verify the entities: %w", err)
	}
	if err := v.snapshots(ctx); err != nil {
		return v.found, fmt.Errorf("verify the snapshots: %w", err)
	}
	return v.found, nil
}

type verification struct {
	*Store
	horizon  [Shards]int64
	progress func(Findings)
	found    Findings
}

func (v *verification) gap(place string, after, next int64) {
	if len(v.found.Gaps) < maxFindings {
		v.found.Gaps = append(v.found.Gaps, Gap{place, after, next})
	}
}

func (v *verification) mismatch(shot snapshot, reason string) {
	if len(v.found.Mismatches) < maxFindings {
		v.found.Mismatches = append(v.found.Mismatches, Mismatch{shot.ref().String(), shot.Version, reason})
	}
}

func (v *verification) shard(ctx context.Context, shard int) error {
	var last, seq int64
	for n := verifyChunk; n == verifyChunk; {
		rows, err := v.db.Query(ctx, `select seq from events where shard = $1 and seq > $2 order by seq limit $3`, shard, last, verifyChunk)
		if err != nil {
			return err
		}
		n = 0
		_, err = pgx.ForEachRow(rows, []any{&seq}, func() error {
			if before := max(last, v.horizon[shard]-1); seq > before+1 {
				v.gap(fmt.Sprintf("shard %d", shard), before, seq)
			}
			n, last = n+1, seq
			return nil
		})
		if err != nil {
			return err
		}
		v.found.Events += int64(n)
		v.progress(v.found)
	}
	return nil
}

func (v *verification) entities(ctx context.Context) error {
	var last, now struct {
		kind    string
		id      uuid.UUID
		version int64
	}
	for n := verifyChunk; n == verifyChunk; {
		rows, err := v.db.Query(ctx, `select aggregate_type, aggregate_id, version from events
			where (aggregate_type, aggregate_id, version) > ($1, $2, $3) order by 1, 2, 3 limit $4`,
			last.kind, last.id, last.version, verifyChunk)
		if err != nil {
			return err
		}
		n = 0
		_, err = pgx.ForEachRow(rows, []any{&now.kind, &now.id, &now.version}, func() error {
			r, before := Ref{now.kind, now.id}, last.version
			if now.kind != last.kind || now.id != last.id {
				before = 0
				v.found.Entities++
			}
			pruned := before == 0 && v.horizon[r.Shard()] > 0 // a hole that is none would show in the shard
			if now.version != before+1 && !pruned {
				v.gap(r.String(), before, now.version)
			}
			n, last = n+1, now
			return nil
		})
		if err != nil {
			return err
		}
		v.progress(v.found)
	}
	return nil
}

// snapshots replays every entity that has snapshots and compares.
func (v *verification) snapshots(ctx context.Context) error {
	last := Ref{}
	for {
		shots, err := v.Store.snapshots(ctx, `(aggregate_type, aggregate_id) = (select aggregate_type, aggregate_id from event_snapshots
			where (aggregate_type, aggregate_id) > ($1, $2) order by 1, 2 limit 1) order by version, fold`, last.Type, last.ID)
		if err != nil || len(shots) == 0 {
			return err
		}
		last = shots[0].ref()
		if err := v.compare(ctx, last, shots); err != nil {
			return err
		}
		v.found.Snapshots += int64(len(shots))
		v.progress(v.found)
	}
}

// compare replays r's events and looks at each snapshot when its version is reached.
func (v *verification) compare(ctx context.Context, r Ref, shots []snapshot) error {
	c := &comparison{verification: v, folding: v.start(r), contents: map[int64]string{}}
	for _, shot := range shots {
		content, err := v.schema.open(shot)
		switch {
		case err != nil:
			v.mismatch(shot, err.Error())
		case shot.Fold == v.schema.fold(r.Type).version: // what another fold made only it can tell
			c.due = append(c.due, shot)
			c.contents[shot.Version] = string(content)
		}
	}
	if len(c.due) == 0 {
		return nil
	}
	if err := v.replay(ctx, c.folding, c.due[len(c.due)-1].Version, c.see); err != nil {
		v.mismatch(shots[0], err.Error())
		return ctx.Err()
	}
	for _, shot := range c.due {
		v.mismatch(shot, "there is no such event")
	}
	return nil
}

type comparison struct {
	*verification
	*folding
	due      []snapshot       // still to be reached
	contents map[int64]string // by version
	base     *snapshot        // where all begins, if the events before it are pruned
}

// see takes the next event in.
func (c *comparison) see(e Event) error {
	if c.version == 0 && e.Version > 1 {
		c.base, c.due = &c.due[0], c.due[1:]
		c.version = min(e.Version-1, c.base.Version)
	}
	if c.base != nil && e.Version <= c.base.Version { // nothing can be told before it
		c.version = e.Version
		return nil
	}
	if c.base != nil && c.version == c.base.Version {
		state, err := decode([]byte(c.contents[c.version]))
		if err != nil {
			return err
		}
		c.state, c.base = state, nil
	}
	if err := c.add(e); err != nil {
		return err
	}
	if len(c.due) == 0 || c.due[0].Version != e.Version {
		return nil
	}
	content, _, err := c.canonical()
	if err == nil && string(content) != c.contents[e.Version] {
		c.mismatch(c.due[0], "it is not what the events make")
	}
	c.due = c.due[1:]
	return err
}
