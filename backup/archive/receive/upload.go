package receive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"rootstream/backup/repo"
	"rootstream/backup/wal"
	"rootstream/internal/wait"
)

const (
	uploadTimeout = 5 * time.Minute // for one object
	lastWords     = 5 * time.Second // for what is left when we are told to stop
	mergeAt       = 16              // so many pieces of a kind become one
)

// uploader is the loop that empties the spools.
type uploader struct {
	*Receiver
	repo  *repo.Repo
	tails map[uint64]*pieces
}

// pieces are those that the repository has of an open segment, without a gap from its beginning.
type pieces struct {
	name   string
	parts  []part
	mended int // as the spool's was when they were uploaded
}

type part struct {
	repo.Piece
	level int // how often it was merged
}

func (p *pieces) end() int64 {
	if len(p.parts) == 0 {
		return 0
	}
	last := p.parts[len(p.parts)-1]
	return last.Off + last.Size
}

// upload empties the spools until ctx ends, and then once more.
func (r *Receiver) upload(ctx context.Context) error {
	u := &uploader{Receiver: r, tails: map[uint64]*pieces{}}
	pause := r.cfg.PieceEvery
	for ctx.Err() == nil {
		err := u.round(ctx)
		if err != nil && ctx.Err() == nil {
			r.note(ctx, "uploading was interrupted", err)
			pause = min(2*pause, longestPause)
		} else {
			pause = r.cfg.PieceEvery
		}
		u.await(ctx, pause, err != nil)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if err := u.round(last); err != nil {
		r.note(last, "the last of the log was not uploaded", err)
	}
	return nil
}

// await waits for what is to be uploaded next. When the server waits for the repository, every byte is worth a piece.
func (u *uploader) await(ctx context.Context, pause time.Duration, failed bool) {
	var files, more <-chan struct{}
	if !failed {
		files = u.files
		if u.cfg.Remote {
			more = u.more
		}
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-files:
	case <-more:
	case <-t.C:
	}
}

// round uploads everything there is.
func (u *uploader) round(ctx context.Context) error {
	if u.repo == nil {
		rp, err := u.cfg.Open(ctx)
		if err != nil {
			return fmt.Errorf("open the repository: %w", err)
		}
		u.repo = rp
	}
	u.mu.Lock()
	spools := maps.Clone(u.spools)
	u.mu.Unlock()
	var failed error
	for system, s := range spools {
		failed = errors.Join(failed, u.empty(ctx, system, s))
	}
	if failed == nil {
		u.change(func(s *State) { s.UploadedAt = time.Now().UTC() })
	}
	return failed
}

func (u *uploader) empty(ctx context.Context, system uint64, s *spool) error {
	t := s.tail() // before the others, or it would be uploaded ahead of a segment that became whole in between
	names, err := s.waiting()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := u.whole(ctx, system, s, name); err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
		wait.Wake(u.room)
	}
	if err := u.tail(ctx, system, s, t); err != nil {
		return fmt.Errorf("upload a piece of the open segment: %w", err)
	}
	return nil
}

// whole uploads a file that will not change any more.
func (u *uploader) whole(ctx context.Context, system uint64, s *spool, file string) error {
	ctx, cancel := context.WithTimeout(ctx, uploadTimeout)
	defer cancel()
	data, err := s.root.ReadFile(file)
	if err != nil {
		return err
	}
	name, ended := strings.CutSuffix(file, isEnded)
	n, err := wal.ParseName(name)
	if err != nil {
		return err
	}
	var end wal.LSN
	if n.Kind == wal.Segment {
		var h wal.Header
		if h, err = wal.CheckSegment(name, data, system); err == nil {
			end = h.Start + wal.LSN(h.SegmentSize)
		} else if ended {
			return u.ended(ctx, system, s, name, data)
		}
	}
	if err == nil {
		err = u.repo.PutWAL(ctx, system, name, data)
	}
	if errors.Is(err, repo.ErrWALConflict) || errors.Is(err, wal.ErrForeign) || errors.Is(err, wal.ErrDamaged) {
		return u.refuse(ctx, s, file, err)
	}
	if err != nil {
		return err
	}
	if n.Kind == wal.Segment {
		u.uploaded(system, n.Timeline, end)
	}
	return s.drop(file, len(data))
}

// refuse keeps what cannot be archived out of the way of what can: it is a gap that somebody has to look at.
func (u *uploader) refuse(ctx context.Context, s *spool, file string, cause error) error {
	u.change(func(st *State) { st.Refused++ })
	u.note(ctx, "the repository refuses "+file, cause)
	u.cfg.Alarm(ctx, cause)
	return s.aside(file)
}

// ended uploads what there is of the last segment of a timeline.
func (u *uploader) ended(ctx context.Context, system uint64, s *spool, name string, data []byte) error {
	p, err := u.known(ctx, system, name)
	if err != nil {
		return err
	}
	data, held := bytes.TrimRight(data, "\x00"), len(data) // of zeros nobody knows whether they are log
	if from := p.end(); from < int64(len(data)) {
		if err := u.repo.PutPiece(ctx, system, name, from, data[from:]); err != nil {
			return err
		}
	}
	return s.drop(name+isEnded, held)
}

// known returns the pieces that the repository has of a segment.
func (u *uploader) known(ctx context.Context, system uint64, name string) (*pieces, error) {
	if p := u.tails[system]; p != nil && p.name == name {
		return p, nil
	}
	have, err := u.repo.PieceList(ctx, system, name)
	if err != nil {
		return nil, err
	}
	p := &pieces{name: name}
	for _, piece := range repo.InRow(have) {
		p.parts = append(p.parts, part{Piece: piece})
	}
	return p, nil
}

// tail uploads what is new of the open segment.
func (u *uploader) tail(ctx context.Context, system uint64, s *spool, t tail) error {
	ctx, cancel := context.WithTimeout(ctx, uploadTimeout)
	defer cancel()
	if t.name == "" || t.synced == 0 {
		return nil
	}
	p, err := u.known(ctx, system, t.name)
	if err != nil {
		return err
	}
	u.tails[system] = p
	if _, err := s.root.Stat(t.name + isOpen); errors.Is(err, os.ErrNotExist) {
		return nil // it is whole now, or has ended
	}
	if p.mended != t.mended { // they may have zeros where log belongs
		if err := u.again(ctx, system, p); err != nil {
			return err
		}
		p.mended = t.mended
	}
	if from := p.end(); from < t.synced {
		data, err := readPart(s.root, t.name+isOpen, from, t.synced-from)
		if errors.Is(err, os.ErrNotExist) {
			return nil // it is whole now
		}
		if err != nil {
			return err
		}
		if err := u.repo.PutPiece(ctx, system, t.name, from, data); err != nil {
			return err
		}
		p.parts = append(p.parts, part{Piece: repo.Piece{Off: from, Size: t.synced - from}})
	}
	u.uploaded(system, t.tli, t.start+wal.LSN(p.end())) //nolint:gosec // not negative
	return u.merge(ctx, system, s, p)
}

// again drops what the repository has of an open segment, so that all of it is uploaded anew.
func (u *uploader) again(ctx context.Context, system uint64, p *pieces) error {
	have, err := u.repo.PieceList(ctx, system, p.name)
	if err != nil {
		return err
	}
	if err = u.repo.DropPieces(ctx, have...); err == nil {
		p.parts = nil
	}
	return err
}

// merge makes one piece of many, so that a segment that fills slowly is not made of thousands. Only then are the many
// removed.
func (u *uploader) merge(ctx context.Context, system uint64, s *spool, p *pieces) error {
	for {
		n := len(p.parts)
		if n < mergeAt || slices.ContainsFunc(p.parts[n-mergeAt:], func(x part) bool { return x.level != p.parts[n-1].level }) {
			return nil
		}
		first := p.parts[n-mergeAt]
		one := part{repo.Piece{Off: first.Off, Size: p.end() - first.Off}, first.level + 1}
		data, err := readPart(s.root, p.name+isOpen, one.Off, one.Size)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err = u.repo.PutPiece(ctx, system, p.name, one.Off, data); err != nil {
			return err
		}
		p.parts = append(p.parts[:n-mergeAt], one)
		have, err := u.repo.PieceList(ctx, system, p.name)
		if err != nil {
			return err
		}
		have = slices.DeleteFunc(have, func(x repo.Piece) bool {
			return x.Off < one.Off || x.Off+x.Size > p.end() || x.Size == one.Size
		})
		if err := u.repo.DropPieces(ctx, have...); err != nil {
			return err
		}
	}
}

// uploaded notes how far the repository is, and lets the receiving loop tell the server.
func (u *uploader) uploaded(system uint64, tli wal.TimelineID, end wal.LSN) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state.SystemID != 0 && system != u.state.SystemID { // what is left of a cluster of before
		return
	}
	if tli < u.uploadedOn || tli == u.uploadedOn && end <= u.state.Uploaded {
		return
	}
	u.uploadedOn, u.state.Uploaded = tli, end
	if u.cfg.Remote {
		u.poke()
	}
}

func readPart(root *os.Root, name string, off, n int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data := make([]byte, n)
	_, err = io.ReadFull(io.NewSectionReader(f, off, n), data)
	return data, err
}
