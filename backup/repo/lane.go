package repo

import (
	"context"
	"errors"
	"fmt"
)

// Lane fills packs, one at a time. It compresses and seals in the caller's
// goroutine, so each worker has its own.
type Lane struct {
	s    *Session
	comp *compressor
	pack *pack
}

// NewLane returns a lane that compresses so.
func (s *Session) NewLane(c Compression) (*Lane, error) {
	comp, err := newCompressor(c)
	if err != nil {
		return nil, err
	}
	select {
	case s.buffers <- nil: // one more may exist
	default:
		return nil, ErrInvalid.WithCause(fmt.Errorf("a session has at most %d lanes", maxLanes))
	}
	return &Lane{s: s, comp: comp}, nil
}

// Add stores data, of 1 to MaxBlob bytes, and says where. The hash finds it
// again when a later run resumes. The data is the caller's again when Add returns.
func (l *Lane) Add(ctx context.Context, hash Hash, data []byte) (Blob, error) {
	if len(data) == 0 || len(data) > MaxBlob {
		return Blob{}, ErrInvalid.WithCause(fmt.Errorf("a blob of %d bytes: 1 to %d are allowed", len(data), MaxBlob))
	}
	if l.pack != nil && !l.pack.fits(len(data)) {
		if err := l.Close(ctx); err != nil {
			return Blob{}, err
		}
	}
	if l.pack == nil {
		var err error
		if l.pack, err = l.s.newPack(ctx); err != nil {
			return Blob{}, err
		}
	}
	return l.pack.add(l.comp, hash, data), nil
}

// Close sends the lane's pack on its way; Commit waits for it. The lane may be used again.
func (l *Lane) Close(ctx context.Context) error {
	if l.pack == nil {
		return nil
	}
	p := l.pack
	l.pack = nil
	p.finish()
	select {
	case l.s.queue <- p:
		return nil
	case <-l.s.ended:
		return errEnded
	case <-ctx.Done():
		l.s.buffers <- p.buf[:0]
		return context.Cause(ctx)
	}
}

// newPack waits for a buffer that is free. There is one more than lanes can hold while an upload is under way.
func (s *Session) newPack(ctx context.Context) (*pack, error) {
	var buf []byte
	select {
	case buf = <-s.buffers:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if buf == nil {
		buf = make([]byte, 0, packRoom(s.r.cfg.PackSize))
	}
	id, err := s.r.ring.newPackID(s.mark())
	if err != nil {
		return nil, err
	}
	seal, err := s.r.ring.sealer(id)
	if err != nil {
		return nil, err
	}
	return &pack{sealer: seal, id: id, buf: buf, limit: s.r.cfg.PackSize}, nil
}

// upload sends packs until the session ends. After a failure it only gives the buffers back.
func (s *Session) upload(ctx context.Context) {
	for {
		select {
		case <-s.ended:
			return
		case p := <-s.queue:
			if ctx.Err() == nil {
				if err := s.send(ctx, p); err != nil {
					s.fail(fmt.Errorf("store a pack: %w", err))
				}
			}
			s.buffers <- p.buf[:0]
		}
	}
}

func (s *Session) send(ctx context.Context, p *pack) error {
	if err := s.pace.wait(ctx, len(p.buf)); err != nil {
		return err
	}
	if err := s.r.st.Put(ctx, p.id.object(), p.buf); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[p.id] = int64(len(p.buf))
	s.stored += int64(len(p.buf))
	return nil
}

// Stored is how many bytes of packs this session has stored so far.
func (s *Session) Stored() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored
}

var errEnded = errors.New("the session has ended")
