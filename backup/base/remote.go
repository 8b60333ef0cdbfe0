package base

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"rootstream/backup/base/wire"
	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

// remote is a data folder on another machine: its server reads the files and sends them, in no order.
type remote struct {
	conn   *wire.Conn
	backup *wire.Backup
	spare  chan []byte // buffers for chunks on their way to workers; nil ones are yet to be made

	mu     sync.Mutex
	doubts map[string][]doubt // by path
	many   int
}

// doubt is a page with a wrong checksum that was written after the backup began: if its position in the log is to be
// believed, it may have been sent half written, and recovery replaces it.
type doubt struct {
	page uint32
	at   wal.LSN
}

const (
	onTheirWay = 128     // chunks: a unit, so that a second worker has something to do before the first is done with a large file
	mostDoubts = 1 << 16 // there are a few in a busy hour
)

// call asks the server for a replication connection.
func (t *taking) call(ctx context.Context) error {
	conn, err := wire.Connect(ctx, wire.Config{DSN: t.cfg.DSN, Silence: t.cfg.Timeout, Notice: func(text string) {
		t.cfg.Logger.WarnContext(ctx, "the server warns", "warning", text)
	}})
	if err != nil {
		return err
	}
	t.remote = &remote{conn: conn, spare: make(chan []byte, onTheirWay), doubts: map[string][]doubt{}}
	for range onTheirWay {
		t.remote.spare <- nil
	}
	if conn.System != t.server.system {
		return ErrServer.WithCause(fmt.Errorf("one connection leads to system %d, another to %d", t.server.system, conn.System))
	}
	return nil
}

// ask has the server begin.
func (t *taking) ask(ctx context.Context, label string) (err error) {
	if t.control, err = t.server.control(ctx); err != nil {
		return err
	}
	if _, _, t.m.Started, err = t.server.position(ctx); err != nil {
		return err
	}
	r := t.remote
	r.backup, err = r.conn.Begin(ctx, wire.Request{
		Major: t.server.major, Catalog: t.control.Catalog, Label: label, Fast: !t.cfg.Spread, Rate: t.cfg.Rate,
	})
	if err != nil {
		return err
	}
	t.m.StartLSN, t.control.Timeline = r.backup.Start, r.backup.Timeline
	t.progress.total.Store(r.backup.Size)
	t.m.Source = "replication"
	return nil
}

// receive copies what the server sends, then puts the list of files in order.
func (t *taking) receive(ctx context.Context) error {
	parents, err := t.shelved(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = parents.Close() }()
	arrived, err := repo.NewShelf()
	if err != nil {
		return err
	}
	defer func() { _ = arrived.Close() }()
	if t.parent.ID != "" { // what it has under other names
		if err = t.known.learn(ctx, t.s, t.parent); err != nil {
			return err
		}
	}
	if err = t.copyFrom(ctx, t.remote, false, t.sent(parents), arrived); err != nil {
		return err
	}
	end := t.remote.backup.End()
	if err = t.settle(end); err != nil {
		return err
	}
	for f, err := range arrived.Sorted() {
		if err != nil {
			return err
		}
		t.m.PageErrors += t.remote.doubted(&f, end.Stop)
		if err := t.list.Write(ctx, f); err != nil {
			return err
		}
	}
	if more := t.remote.unnamed(); more > 0 {
		t.m.PageErrors += more
		t.cfg.Logger.WarnContext(ctx, "more pages have a wrong checksum than can be named", "named", mostDoubts, "more", more)
	}
	if end.WrongPages && t.m.PageErrors == 0 {
		t.m.PageErrors = 1 // the server's log says where
	}
	return t.writeControl(ctx, end.Control, end.ControlAt.Mode, end.ControlAt.ModTime)
}

// shelved puts the parent's files where they are found in any order.
func (t *taking) shelved(ctx context.Context) (*repo.Shelf, error) {
	shelf, err := repo.NewShelf()
	if err != nil || t.parent.ID == "" {
		return shelf, err
	}
	for f, err := range t.r.Files(ctx, t.parent) {
		if err == nil {
			err = shelf.Write(ctx, f)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read the parent's files: %w", err), shelf.Close())
		}
	}
	return shelf, nil
}

// sent goes through what the server sends, with what the parent has of each.
func (t *taking) sent(parents *repo.Shelf) walker {
	return func(ctx context.Context) iter.Seq2[pair, error] {
		return func(yield func(pair, error) bool) {
			for e, err := range t.remote.backup.Entries(ctx) {
				p := pair{entry: e.Entry}
				if err == nil && e.Kind == pgdata.Regular {
					p.feed = func(ctx context.Context, u *unit) error { return t.remote.feed(ctx, u, e.Body) }
					p.parent, err = parents.Find(e.Path)
				}
				if !yield(p, err) || err != nil {
					return
				}
			}
		}
	}
}

// settle compares the control file that came last with what the server had said of itself.
func (t *taking) settle(e wire.End) error {
	c, err := pgdata.ParseControl(e.Control)
	if err != nil {
		return err
	}
	said := t.control
	if c.SystemID != t.server.system || c.BlockSize != said.BlockSize || c.BlocksPerSegment != said.BlocksPerSegment ||
		c.Catalog != said.Catalog || c.WALSegmentSize != said.WALSegmentSize || e.Timeline != said.Timeline {
		return ErrServer.WithCause(errors.New("the control file that it sent is not its own, or its timeline changed"))
	}
	t.control = c
	return nil
}

// ended is what the server says when a backup ends.
func (t *taking) ended(ctx context.Context) (end, error) {
	e := t.remote.backup.End()
	_, _, now, err := t.server.position(ctx)
	return end{lsn: e.Stop, label: e.Label, spaces: e.Spaces, at: now}, err
}

// open begins a unit whose chunks are on their way.
func (r *remote) open(u *unit) (content, error) { return &onItsWay{r: r, u: u}, nil }

// onItsWay is a unit that is received.
type onItsWay struct {
	r   *remote
	u   *unit
	now []byte
}

func (c *onItsWay) next(ctx context.Context, _ []byte) ([]byte, error) {
	c.close()
	select {
	case c.now = <-c.u.chunks:
		return c.now, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// close gives the buffer back.
func (c *onItsWay) close() {
	if c.now != nil {
		c.r.spare <- c.now
		c.now = nil
	}
}

// excused goes by where in the log the page says it was changed, as the server does, which has read it twice if that was
// before the backup began. Whether it is to be believed shows when the backup ends.
func (c *onItsWay) excused(_ context.Context, block []byte, at int64) (bool, error) {
	lsn := pgdata.PageLSN(block)
	if lsn < c.r.backup.Start {
		return false, nil
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.many++; c.r.many <= mostDoubts {
		path := c.u.item.entry.Path
		c.r.doubts[path] = append(c.r.doubts[path], doubt{uint32(at / pageSize), lsn}) //nolint:gosec // page numbers have 32 bits
	}
	return true, nil
}

// doubted names the pages that say they were changed after all was over, and counts them.
func (r *remote) doubted(f *repo.File, stop wal.LSN) int64 {
	var n int64
	for _, d := range r.doubts[f.Path] {
		if d.at > stop {
			f.BadPages = append(f.BadPages, d.page)
			n++
		}
	}
	slices.Sort(f.BadPages)
	return n
}

// unnamed is how many doubtful pages there were beyond those that are remembered. Nothing is known that excuses them.
func (r *remote) unnamed() int64 { return int64(max(0, r.many-mostDoubts)) }

// feed sends a unit's chunks to the worker that has it.
func (r *remote) feed(ctx context.Context, u *unit, body io.Reader) error {
	for at := int64(0); at < u.size; at += chunkBytes {
		var buf []byte
		select {
		case buf = <-r.spare:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if buf == nil {
			buf = make([]byte, chunkBytes)
		}
		buf = buf[:min(chunkBytes, u.size-at)]
		if _, err := io.ReadFull(body, buf); err != nil {
			return fmt.Errorf("%s: %w", u.item.entry.Path, err)
		}
		u.chunks <- buf // as many fit as a unit has
	}
	return nil
}
