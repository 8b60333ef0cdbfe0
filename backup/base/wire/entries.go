package wire

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"rootstream/backup/pgdata"
)

// Entry is something in the data folder. The Body of a file is there until the next entry is asked for.
type Entry struct {
	pgdata.Entry
	Body io.Reader
}

const (
	mostFiles = 1 << 24
	mostBytes = 1 << 40 // of one file; a relation's have 1 GiB
	mostName  = 1024    // MAXPGPATH

	labelName, mapName = "backup_label", "tablespace_map"
)

// Entries goes through what a copy of the data folder needs, as it comes. After the last one everything has arrived as
// the server sent it, and [Backup.End] tells the rest. It can be gone through once.
func (b *Backup) Entries(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		listening, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		quiet := time.AfterFunc(b.c.silence, func() {
			cancel(ErrStream.WithCause(fmt.Errorf("the server has been silent for %v", b.c.silence)))
		})
		quiet.Stop() // while we do not listen
		hear := func(ctx context.Context) (pgproto3.BackendMessage, error) {
			quiet.Reset(b.c.silence)
			defer quiet.Stop()
			return b.c.receive(ctx)
		}
		arrived, err := newArrivals()
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer arrived.close()
		w := &walk{b: b, s: &stream{hear: hear, tagged: b.tagged}, arrived: arrived, yield: yield}
		if err := w.all(listening); err != nil && !errors.Is(err, errEnough) {
			yield(Entry{}, b.fault(listening, "receive a base backup", err))
		}
	}
}

// End returns what is known once everything has arrived.
func (b *Backup) End() End { return b.end }

// walk goes through the parts.
type walk struct {
	b       *Backup
	s       *stream
	arrived *arrivals
	yield   func(Entry, error) bool
}

var errEnough = errors.New("no more entries are wanted")

func (w *walk) all(ctx context.Context) error {
	for _, a := range w.b.archives {
		p, err := w.s.begin(ctx)
		if err != nil {
			return err
		}
		if p.manifest || w.b.tagged && p.name != a.name() {
			return fmt.Errorf("archive %.40q in the place of %s", p.name, a.name())
		}
		if err := w.archive(ctx, a); err != nil {
			return fmt.Errorf("%s: %w", a.name(), err)
		}
	}
	p, err := w.s.begin(ctx)
	if err == nil && w.b.tagged != p.manifest {
		err = fmt.Errorf("archive %.40q in the place of the manifest", p.name)
	}
	if err != nil {
		return err
	}
	m, err := w.arrived.compare(w.s.reader(ctx))
	if err != nil {
		return fmt.Errorf("the manifest: %w", err)
	}
	return w.b.finish(ctx, w.s, m)
}

// archive goes through a tar.
func (w *walk) archive(ctx context.Context, a archive) error {
	if a.space.OID != 0 {
		link := Entry{Entry: pgdata.Entry{Path: a.folder(), Kind: pgdata.Symlink, Mode: 0o777, Target: a.space.Location}}
		if !w.yield(link, nil) {
			return errEnough
		}
	}
	for r := tar.NewReader(w.s.reader(ctx)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := entryOf(a, h)
		if err != nil {
			return err
		}
		if err = w.entry(ctx, e, r); err != nil {
			return fmt.Errorf("%.200q: %w", e.Path, err)
		}
	}
}

// entryOf reads a header. A server sends plain files and folders, and nothing that needs an extension of tar.
func entryOf(a archive, h *tar.Header) (pgdata.Entry, error) {
	const permissions = 0o777
	name := strings.TrimPrefix(strings.TrimSuffix(h.Name, "/"), "./") // some folders have it
	e := pgdata.Entry{Path: name, Mode: uint32(h.Mode & permissions), Size: h.Size, ModTime: h.ModTime.UnixNano()}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || len(name) > mostName || strings.ContainsRune(part, 0) {
			return e, fmt.Errorf("the name %.200q leads elsewhere", h.Name)
		}
	}
	if folder := a.folder(); folder != "" {
		e.Path = folder + "/" + name
	} else if strings.HasPrefix(name, "pg_tblspc/") {
		return e, fmt.Errorf("%.200q is not in the archive of its tablespace", name)
	}
	switch {
	case h.Typeflag == tar.TypeDir && h.Size == 0:
		e.Kind = pgdata.Dir
	case h.Typeflag != tar.TypeReg || len(h.PAXRecords) > 0:
		return e, fmt.Errorf("%.200q is of type %q", h.Name, h.Typeflag)
	case h.Size < 0 || h.Size > mostBytes:
		return e, fmt.Errorf("%.200q has %d bytes", h.Name, h.Size)
	}
	return e, nil
}

// entry hands out what belongs into a copy, and notes the checksum of every file.
func (w *walk) entry(ctx context.Context, e pgdata.Entry, r io.Reader) error {
	named, needed := pgdata.Named(e.Path, w.b.version)
	e.Relation, e.Blocks = named.Relation, named.Blocks
	if e.Kind == pgdata.Dir {
		if needed && !w.yield(Entry{Entry: e}, nil) {
			return errEnough
		}
		return nil
	}
	body := &summing{r: r}
	switch kept, most := w.b.keep(e); {
	case kept != nil:
		var err error
		if *kept, err = io.ReadAll(io.LimitReader(body, most)); err != nil {
			return err
		}
	case needed:
		if !w.yield(Entry{e, readerFunc(func(p []byte) (int, error) {
			n, err := body.Read(p)
			if err != nil && !errors.Is(err, io.EOF) {
				err = w.b.fault(ctx, "receive a base backup", err)
			}
			return n, err
		})}, nil) {
			return errEnough
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	return w.arrived.add(arrival{e.Path, body.n, body.crc})
}

// keep returns where a file is kept that is no part of the copy, or its last, and how much of it at most.
func (b *Backup) keep(e pgdata.Entry) (*[]byte, int64) {
	const most = 1 << 20
	switch e.Path {
	case labelName:
		return &b.end.Label, most
	case mapName:
		return &b.end.Spaces, most
	case pgdata.ControlPath:
		b.end.ControlAt = e
		return &b.end.Control, pgdata.PageSize + 1
	}
	return nil, 0
}

// summing sums up what is read through it.
type summing struct {
	r   io.Reader
	n   int64
	crc uint32
}

func (s *summing) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.crc = crc32.Update(s.crc, castagnoli(), p[:n])
	s.n += int64(n)
	return n, err
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }
