package pack

import (
	"context"
	"fmt"

	"rootstream/backup/repo/codec"
	"rootstream/backup/repo/seal"
)

// Lane fills packs, one at a time. It compresses and seals in the caller's
// goroutine, so each worker has its own.
type Lane struct {
	w    *Writer
	comp *codec.Compressor
	pack *pack
}

// NewLane returns a lane that compresses so.
func (w *Writer) NewLane(c codec.Compression) (*Lane, error) {
	comp, err := codec.NewCompressor(c)
	if err != nil {
		return nil, seal.ErrInvalid.WithCause(err)
	}
	if !w.allow() {
		return nil, seal.ErrInvalid.WithCause(fmt.Errorf("a run has at most %d lanes", maxLanes))
	}
	return &Lane{w: w, comp: comp}, nil
}

// Add stores data, of 1 to MaxBlob bytes, and says where. The hash finds it
// again when a later run resumes. The data is the caller's again when Add returns.
func (l *Lane) Add(ctx context.Context, hash seal.Hash, data []byte) (Blob, error) {
	if len(data) == 0 || len(data) > MaxBlob {
		return Blob{}, seal.ErrInvalid.WithCause(fmt.Errorf("a blob of %d bytes: 1 to %d are allowed", len(data), MaxBlob))
	}
	if l.pack != nil && !l.pack.fits(len(data)) {
		if err := l.Close(ctx); err != nil {
			return Blob{}, err
		}
	}
	if l.pack == nil {
		var err error
		if l.pack, err = l.w.newPack(ctx); err != nil {
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
	case l.w.queue <- p:
		return nil
	case <-l.w.ended:
		return errEnded
	case <-ctx.Done():
		l.w.made <- p.buf[:0]
		return context.Cause(ctx)
	}
}
