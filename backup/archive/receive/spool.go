package receive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"rootstream/backup/wal"
	"rootstream/internal/proc"
	"rootstream/internal/wait"
)

// What the names of files in a spool end with, besides whole segments and histories.
const (
	isOpen  = ".open"  // the segment that is being received: its name says where to go on
	isEnded = ".ended" // what there is of the last segment of a timeline
	isAside = ".aside" // what the repository did not take
)

// spool is the folder in which write-ahead log of one cluster waits for its upload. What it has acknowledged survives
// any crash: files only grow, and are renamed once they are whole and on disk.
type spool struct {
	root *os.Root      // ours alone, whatever its name leads to by now
	wake chan struct{} // there is something to upload

	mu      sync.Mutex
	file    *os.File // the open segment; nil before the first
	tli     wal.TimelineID
	start   wal.LSN // of the open segment
	size    uint32  // of segments; 0 until it is known
	have    int64   // bytes of the open segment in the file
	synced  int64   // of them on disk for sure
	pos     int64   // how far this connection has come in it
	durable wal.LSN // how far this connection has come on disk
	stored  int64   // bytes of all other files
	mended  int     // times that zeros which a power cut had left in the open segment were written over
	scratch []byte

	datasync func(fd int) error
}

// openFolder makes and opens a folder for a spool. Who owns the folder above may put another one, or a link, in its
// place at any time: root writes to none but its own.
func openFolder(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	named, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil || os.Geteuid() != 0 {
		return root, err
	}
	info, err := root.Stat(".")
	if err == nil && (!os.SameFile(named, info) || !proc.OursAlone(info)) {
		err = fmt.Errorf("%s is a link, or not a folder of root alone", dir)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// openSpool finds what a predecessor left in a folder.
func openSpool(root *os.Root) (*spool, error) {
	s := &spool{root: root, wake: make(chan struct{}, 1), datasync: unix.Fdatasync}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, ErrSpool.WithCause(err)
	}
	var open []string
	for _, e := range entries { // in the order of their names, which is that of timelines and positions
		info, err := e.Info()
		if err != nil {
			return nil, ErrSpool.WithCause(err)
		}
		if name, is := strings.CutSuffix(e.Name(), isOpen); is {
			open = append(open, name)
		} else {
			s.stored += info.Size()
		}
	}
	if len(open) == 0 {
		return s, nil
	}
	for _, name := range open[:len(open)-1] { // a crash between the two steps of begin
		if err := s.end(name); err != nil {
			return nil, ErrSpool.WithCause(err)
		}
	}
	if err := s.reopen(open[len(open)-1]); err != nil {
		return nil, ErrSpool.WithCause(err)
	}
	return s, nil
}

// reopen takes up the open segment again. All of it counts as acknowledged, but for zeros at its end: a power cut may
// have left them in place of log. Where they are log they come again, or are filled up when the segment is fetched.
func (s *spool) reopen(name string) error {
	n, err := wal.ParseName(name)
	if err != nil {
		return err
	}
	if s.file, err = s.root.OpenFile(name+isOpen, os.O_RDWR, 0); err != nil {
		return err
	}
	whole, err := withoutZeros(s.file)
	if err != nil {
		return err
	}
	if err := errors.Join(s.file.Truncate(whole), s.file.Sync()); err != nil {
		return err
	}
	s.tli, s.have, s.synced = n.Timeline, whole, whole
	first := make([]byte, 64)
	if _, err := s.file.ReadAt(first, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if h, err := wal.ParseHeader(first); err == nil {
		s.size, s.start = h.SegmentSize, h.Start
	}
	return nil
}

// withoutZeros returns where the zeros begin that a file ends with.
func withoutZeros(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	block := make([]byte, 64<<10)
	for end := info.Size(); end > 0; {
		from := max(0, end-int64(len(block)))
		part := block[:end-from]
		if _, err := f.ReadAt(part, from); err != nil {
			return 0, err
		}
		if whole := len(bytes.TrimRight(part, "\x00")); whole > 0 {
			return from + int64(whole), nil
		}
		end = from
	}
	return 0, nil
}

func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close() // what counts was synced
	}
}

// resume returns where a new connection goes on: at the beginning of the open segment, so that what is there already
// is compared with what the server has. No timeline means nowhere.
func (s *spool) resume(size uint32) (wal.TimelineID, wal.LSN, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		s.size = size
		return 0, 0, nil
	}
	if s.size != 0 && s.size != size {
		return 0, 0, ErrDiverged.WithCause(fmt.Errorf("its segments have %d bytes, those in %s %d", size, s.root.Name(), s.size))
	}
	n, err := wal.ParseName(strings.TrimSuffix(filepath.Base(s.file.Name()), isOpen))
	if err != nil {
		return 0, 0, err
	}
	s.size, s.pos = size, 0
	if s.start, err = n.Start(size); err != nil {
		return 0, 0, err
	}
	return s.tli, s.start, nil
}

// reached returns up to where the spool has the open segment on disk.
func (s *spool) reached() wal.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.start + wal.LSN(s.synced) //nolint:gosec // not negative
}

// begin goes on elsewhere: on another timeline, or behind a gap.
func (s *spool) begin(tli wal.TimelineID, at wal.LSN) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.file, s.have
	if err := s.create(tli, at.SegmentStart(s.size)); err != nil {
		return err
	}
	s.durable = s.start
	if old == nil {
		return nil
	}
	_ = old.Close() // what counts was synced
	if old.Name() == s.file.Name() {
		return nil
	}
	if had == 0 {
		return s.root.Remove(filepath.Base(old.Name()))
	}
	s.stored += had
	return s.end(strings.TrimSuffix(filepath.Base(old.Name()), isOpen))
}

// end keeps what there is of a segment that will not be continued.
func (s *spool) end(name string) error {
	if err := s.root.Rename(name+isOpen, name+isEnded); err != nil {
		return err
	}
	wait.Wake(s.wake)
	return syncDir(s.root)
}

// create makes the file of a segment that is to be received. From then on it says where to go on.
func (s *spool) create(tli wal.TimelineID, start wal.LSN) error {
	f, err := s.root.OpenFile(wal.SegmentName(tli, start, s.size)+isOpen, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = syncDir(s.root)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.file, s.tli, s.start, s.pos, s.have, s.synced, s.mended = f, tli, start, 0, info.Size(), info.Size(), 0
	return nil
}

// write takes what the server sent next and returns how much of it was taken, also when there is an error.
func (s *spool) write(at wal.LSN, data []byte) (taken int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for taken < len(data) {
		if next := s.start + wal.LSN(s.pos); at+wal.LSN(taken) != next { //nolint:gosec // not negative
			return taken, ErrServer.WithCause(fmt.Errorf("it sent %v when %v was next", at+wal.LSN(taken), next)) //nolint:gosec // not negative
		}
		n := min(len(data)-taken, int(int64(s.size)-s.pos))
		if err := s.put(data[taken : taken+n]); err != nil {
			return taken, err
		}
		taken += n
		s.pos += int64(n)
		if s.pos == int64(s.size) {
			if err := s.complete(); err != nil && s.pos != 0 { // not begun: it is tried again
				s.pos -= int64(n)
				return taken - n, err
			} else if err != nil {
				return taken, err
			}
		}
	}
	return taken, nil
}

// put writes at the current position; what is there already must be the same.
func (s *spool) put(data []byte) error {
	known := int(max(0, min(int64(len(data)), s.have-s.pos)))
	if known > 0 {
		s.scratch = slices.Grow(s.scratch[:0], known)[:known]
		if _, err := s.file.ReadAt(s.scratch, s.pos); err != nil {
			return err
		}
		if bytes.Equal(s.scratch, data[:known]) {
			known = len(data[:known])
		} else if i := differs(s.scratch, data); i >= 0 {
			return ErrDiverged.WithCause(fmt.Errorf("at %v on timeline %d, in %s", s.start+wal.LSN(s.pos)+wal.LSN(i), s.tli, s.file.Name())) //nolint:gosec // not negative
		} else {
			known = 0 // a power cut left zeros: write it again
			s.mended++
		}
	}
	if known == len(data) {
		return nil
	}
	if _, err := s.file.WriteAt(data[known:], s.pos+int64(known)); err != nil {
		return err
	}
	s.synced = min(s.synced, s.pos+int64(known))
	s.have = max(s.have, s.pos+int64(len(data)))
	return nil
}

// differs returns where old has anything but zeros that is not in data; -1 if nowhere.
func differs(old, data []byte) int {
	for i, b := range old {
		if b != 0 && b != data[i] {
			return i
		}
	}
	return -1
}

// complete puts the whole segment on disk under its own name; the next one is there before.
func (s *spool) complete() error {
	if err := s.flush(); err != nil {
		return err
	}
	old := s.file
	if err := s.create(s.tli, s.start+wal.LSN(s.size)); err != nil {
		return err
	}
	s.stored += int64(s.size)
	s.durable = s.start
	name := filepath.Base(old.Name())
	if err := errors.Join(s.root.Rename(name, strings.TrimSuffix(name, isOpen)), old.Close(), syncDir(s.root)); err != nil {
		return ErrSpool.WithCause(err)
	}
	wait.Wake(s.wake)
	return nil
}

// sync puts what was written on disk and returns how far this connection has come there.
func (s *spool) sync() (wal.LSN, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.synced < s.pos {
		if err := s.flush(); err != nil {
			return 0, err
		}
	}
	s.durable = max(s.durable, s.start+wal.LSN(s.pos)) //nolint:gosec // not negative
	return s.durable, nil
}

// flush puts the open segment on disk. What the kernel could not write it may take for written from then on, so that a
// second try succeeds: all that was not on disk before has to come from the server again.
func (s *spool) flush() error {
	if err := s.datasync(int(s.file.Fd())); err != nil {
		s.have = s.synced
		fault := fmt.Errorf("sync %s: %v", s.file.Name(), err) //nolint:errorlint // no full disk that is waited for: the connection has to end
		return errors.Join(fault, s.file.Truncate(s.synced))
	}
	s.synced = s.have
	return nil
}

// onDisk is how far any connection of this process has come on disk.
func (s *spool) onDisk() wal.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// tail is the open segment and how much of it is on disk.
type tail struct {
	name   string
	tli    wal.TimelineID
	start  wal.LSN
	synced int64
	mended int
}

func (s *spool) tail() tail {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return tail{}
	}
	return tail{strings.TrimSuffix(filepath.Base(s.file.Name()), isOpen), s.tli, s.start, s.synced, s.mended}
}

// bytes is how much waits in the spool.
func (s *spool) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored + s.have
}

// waiting returns the names of the files that are to be uploaded, histories first.
func (s *spool) waiting() ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return nil, ErrSpool.WithCause(err)
	}
	var histories, segments []string
	for _, e := range entries {
		n, err := wal.ParseName(strings.TrimSuffix(e.Name(), isEnded))
		switch {
		case err != nil:
		case n.Kind == wal.HistoryOfATime:
			histories = append(histories, e.Name())
		case n.Kind == wal.Segment:
			segments = append(segments, e.Name())
		}
	}
	return append(histories, segments...), nil
}

// keepHistory puts a timeline's history into the spool.
func (s *spool) keepHistory(tli wal.TimelineID, text []byte) error {
	const temp = "history.new"
	if err := writeSynced(s.root, temp, text); err != nil {
		return err
	}
	if err := s.root.Rename(temp, wal.HistoryName(tli)); err != nil {
		return err
	}
	s.mu.Lock()
	s.stored += int64(len(text))
	s.mu.Unlock()
	wait.Wake(s.wake)
	return syncDir(s.root)
}

// drop removes a file that the repository has.
func (s *spool) drop(name string, size int) error {
	if err := s.root.Remove(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored -= int64(size)
	return nil
}

// aside keeps a file that the repository does not take out of the way.
func (s *spool) aside(name string) error { return s.root.Rename(name, name+isAside) }

func writeSynced(root *os.Root, name string, data []byte) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
