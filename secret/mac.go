package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"maps"
	"sync"
)

// macKey computes HMAC-SHA256 under one derived key. It keeps started hashes,
// since starting one costs more than the rest.
type macKey struct{ pool sync.Pool }

type macState struct {
	hash hash.Hash
	buf  []byte // the parts, so that a caller's slices need not escape
}

const maxPooledBuf = 16 << 10

func newMACKey(key []byte) *macKey {
	return &macKey{pool: sync.Pool{New: func() any { return &macState{hash: hmac.New(sha256.New, key)} }}}
}

// sum authenticates the parts, each behind its length, so that no two lists of parts look alike.
func (m *macKey) sum(parts [][]byte) (out [32]byte) {
	s := m.pool.Get().(*macState) // the pool holds nothing else
	b := s.buf[:0]
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	s.hash.Reset()
	s.hash.Write(b)
	n := len(b)
	b = s.hash.Sum(b)
	copy(out[:], b[n:])
	clear(b)
	if cap(b) <= maxPooledBuf {
		s.buf = b
		m.pool.Put(s)
	}
	return out
}

// macs returns the keys of a purpose, the primary first.
func (r *ring) macs(purpose string) ([]*macKey, error) {
	if keys, ok := (*r.macSet.Load())[purpose]; ok {
		return keys, nil
	}
	r.macMu.Lock()
	defer r.macMu.Unlock()
	have := *r.macSet.Load()
	if keys, ok := have[purpose]; ok {
		return keys, nil
	}
	keys := make([]*macKey, 0, len(r.prfs))
	for _, p := range r.prfs {
		key, err := p.ComputePRF([]byte("rs1:mac:"+purpose), 32)
		if err != nil {
			return nil, fmt.Errorf("derive the key for %s: %w", purpose, err)
		}
		keys = append(keys, newMACKey(key))
	}
	more := maps.Clone(have)
	more[purpose] = keys
	r.macSet.Store(&more)
	return keys, nil
}

// MAC authenticates the parts with HMAC-SHA256 under the primary key of purpose.
// A purpose is a constant of the program, such as "session.view": each has a key of its own.
func (k *Keyset) MAC(purpose string, parts ...[]byte) ([32]byte, error) {
	if k == nil {
		return [32]byte{}, ErrKeysetMissing
	}
	keys, err := k.ring.Load().macs(purpose)
	if err != nil {
		return [32]byte{}, err
	}
	return keys[0].sum(parts), nil
}

// MACs authenticates the parts under every key of purpose, the primary first.
func (k *Keyset) MACs(purpose string, parts ...[]byte) ([][32]byte, error) {
	if k == nil {
		return nil, ErrKeysetMissing
	}
	keys, err := k.ring.Load().macs(purpose)
	if err != nil {
		return nil, err
	}
	out := make([][32]byte, len(keys))
	for i, key := range keys {
		out[i] = key.sum(parts)
	}
	return out, nil
}

// OldestMAC authenticates the parts under the oldest key of purpose. It stays
// the same through rotations, whatever each instance knows of them yet: for
// names that all must agree on, not for proofs.
func (k *Keyset) OldestMAC(purpose string, parts ...[]byte) ([32]byte, error) {
	if k == nil {
		return [32]byte{}, ErrKeysetMissing
	}
	r := k.ring.Load()
	keys, err := r.macs(purpose)
	if err != nil {
		return [32]byte{}, err
	}
	if r.meta.Primary == 0 { // the oldest comes first then, not last
		return keys[0].sum(parts), nil
	}
	return keys[len(keys)-1].sum(parts), nil
}

// Verify reports whether mac authenticates the parts under any key of purpose.
func (k *Keyset) Verify(purpose string, mac []byte, parts ...[]byte) (bool, error) {
	if k == nil {
		return false, ErrKeysetMissing
	}
	keys, err := k.ring.Load().macs(purpose)
	if err != nil {
		return false, err
	}
	for _, key := range keys {
		sum := key.sum(parts)
		if hmac.Equal(sum[:], mac) {
			return true, nil
		}
	}
	return false, nil
}
