package pack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"rootstream/backup/repo/seal"
)

// WriterConfig says how packs are written.
type WriterConfig struct {
	Mark     [4]byte     // what the ids of the run's packs have in common
	PackSize int         // bytes a pack has at most
	Uploads  int         // packs on their way at once
	Rate     int64       // bytes per second that are uploaded; 0 means no limit
	Failed   func(error) // is told that a pack could not be stored; it ends the writer's context
}

const (
	maxLanes  = 256
	memory    = 64 << 20 // of all packs being filled and on their way, as long as none is smaller than leastPack
	leastPack = 2 << 20
)

// Writer stores the packs that lanes fill. Drain ends it.
type Writer struct {
	s       *Store
	cfg     WriterConfig
	pace    pacer
	may     chan struct{} // buffers that may be made
	made    chan []byte   // buffers that are free
	buffers atomic.Int32  // that there can be
	queue   chan *pack

	ended   chan struct{} // no more packs
	end     sync.Once
	uploads sync.WaitGroup

	mu     sync.Mutex
	sent   map[ID]int64
	stored int64
}

// NewWriter starts one; its goroutines run until Drain.
func (s *Store) NewWriter(ctx context.Context, cfg WriterConfig) *Writer {
	w := &Writer{
		s: s, cfg: cfg, pace: pacer{rate: cfg.Rate}, sent: map[ID]int64{},
		may: make(chan struct{}, maxLanes+cfg.Uploads), made: make(chan []byte, maxLanes+cfg.Uploads),
		queue: make(chan *pack), ended: make(chan struct{}),
	}
	for range cfg.Uploads {
		w.allow()
		w.uploads.Go(func() { w.upload(ctx) })
	}
	return w
}

// Drain waits for the packs on their way. No pack comes after it.
func (w *Writer) Drain() {
	w.end.Do(func() { close(w.ended) })
	w.uploads.Wait()
}

// Sent returns the packs that were stored, and their sizes.
func (w *Writer) Sent() map[ID]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.sent)
}

// allow lets there be one more buffer; false if there are too many.
func (w *Writer) allow() bool {
	select {
	case w.may <- struct{}{}:
		w.buffers.Add(1)
		return true
	default:
		return false
	}
}

// limit is how large packs become: the more buffers there can be, the smaller.
func (w *Writer) limit() int {
	return min(w.cfg.PackSize, max(leastPack, memory/int(w.buffers.Load())))
}

// buffer waits for one that is free, and makes one only if none is. There is one more than lanes can hold while an
// upload is under way.
func (w *Writer) buffer(ctx context.Context, room int) ([]byte, error) {
	select {
	case buf := <-w.made:
		return buf, nil
	default:
	}
	select {
	case buf := <-w.made:
		return buf, nil
	case <-w.may:
		return make([]byte, 0, room), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (w *Writer) newPack(ctx context.Context) (*pack, error) {
	limit := w.limit()
	buf, err := w.buffer(ctx, packRoom(limit))
	if err != nil {
		return nil, err
	}
	id, err := newID(w.s.safe.Epoch(), w.cfg.Mark)
	if err != nil {
		return nil, err
	}
	lock, err := w.s.sealer(ctx, id)
	if err != nil {
		return nil, err
	}
	return &pack{sealer: lock, id: id, buf: buf, limit: limit}, nil
}

// upload sends packs until the writer ends. After a failure it only gives the buffers back.
func (w *Writer) upload(ctx context.Context) {
	for {
		select {
		case <-w.ended:
			return
		case p := <-w.queue:
			if ctx.Err() == nil {
				if err := w.send(ctx, p); err != nil {
					w.cfg.Failed(fmt.Errorf("store a pack: %w", err))
				}
			}
			w.made <- p.buf[:0]
		}
	}
}

func (w *Writer) send(ctx context.Context, p *pack) error {
	if err := w.pace.wait(ctx, len(p.buf)); err != nil {
		return err
	}
	if err := w.s.st.Put(ctx, p.id.Object(), p.buf); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent[p.id] = int64(len(p.buf))
	w.stored += int64(len(p.buf))
	return nil
}

// Stored is how many bytes of packs have been stored so far.
func (w *Writer) Stored() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stored
}

var errEnded = errors.New("the run has ended")

// newID draws an id: the epoch, then the run's mark, then chance.
func newID(epoch uint16, mark [4]byte) (id ID, err error) {
	binary.BigEndian.PutUint16(id[:2], epoch)
	copy(id[2:6], mark[:])
	chance, err := seal.RandomBytes(len(id[6:]))
	copy(id[6:], chance)
	return id, err
}
