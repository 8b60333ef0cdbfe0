package repo

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// MaxBlob is how many bytes a blob holds at most.
const MaxBlob = 1 << 20

// PackID names a pack: the epoch of its key (2 bytes), the mark of the session
// that made it (4), and chance (10). Nobody continues a pack or uses its name again.
type PackID [16]byte

func (p PackID) epoch() uint16 { return binary.BigEndian.Uint16(p[:2]) }
func (p PackID) mark() [4]byte { return [4]byte(p[2:6]) }
func (p PackID) object() string {
	name := hex.EncodeToString(p[:])
	return packsPrefix + name[12:14] + "/" + name
}

const packsPrefix = "packs/"

// String returns the id in hexadecimal.
func (p PackID) String() string { return hex.EncodeToString(p[:]) }

// MarshalText is String.
func (p PackID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, p[:]), nil }

// UnmarshalText reads what String returns.
func (p *PackID) UnmarshalText(text []byte) error { return unhex(p[:], text) }

// parsePackName tells which pack an object is.
func parsePackName(name string) (PackID, bool) {
	var id PackID
	const at = len(packsPrefix) + 3
	ok := len(name) > at && id.UnmarshalText([]byte(name[at:])) == nil && id.object() == name
	return id, ok
}

// Blob says where a blob is, and all that is needed to read and authenticate it. The zero Blob is none.
type Blob struct {
	Pack   PackID
	Number uint32 // in its pack
	Offset uint32 // in its pack
	Stored uint32 // bytes there, with the seal
	Raw    uint32 // bytes of plain data
	Codec  Codec
}

const blobForm = 16 + 4*4 + 1

// MarshalText writes the blob's place in hexadecimal.
func (b Blob) MarshalText() ([]byte, error) {
	form := make([]byte, 0, blobForm)
	form = append(form, b.Pack[:]...)
	for _, n := range []uint32{b.Number, b.Offset, b.Stored, b.Raw} {
		form = binary.BigEndian.AppendUint32(form, n)
	}
	return hex.AppendEncode(nil, append(form, byte(b.Codec))), nil
}

// UnmarshalText reads what MarshalText writes.
func (b *Blob) UnmarshalText(text []byte) error {
	var form [blobForm]byte
	if err := unhex(form[:], text); err != nil {
		return err
	}
	b.Pack = PackID(form[:16])
	for i, n := range []*uint32{&b.Number, &b.Offset, &b.Stored, &b.Raw} {
		*n = binary.BigEndian.Uint32(form[16+4*i:])
	}
	b.Codec = Codec(form[32])
	return b.check()
}

// check refuses what no pack can hold.
func (b Blob) check() error {
	switch {
	case b.Raw == 0 || b.Raw > MaxBlob, b.Stored < tagSize+1 || b.Stored > MaxBlob+tagSize:
		return fmt.Errorf("blob %d of pack %v has %d bytes, stored in %d", b.Number, b.Pack, b.Raw, b.Stored)
	case uint64(b.Offset)+uint64(b.Stored) > maxPack:
		return fmt.Errorf("blob %d of pack %v lies at %d", b.Number, b.Pack, b.Offset)
	case b.Codec > S2:
		return fmt.Errorf("blob %d of pack %v has %v", b.Number, b.Pack, b.Codec)
	}
	return nil
}

// A pack is its sealed blobs, the sealed footer, and the trailer: length of the
// sealed footer, number of blobs, magic. The footer has an entry per blob: hash,
// codec, stored and plain length.
const (
	packMagic   = "RSPACK01"
	trailerSize = 4 + 4 + len(packMagic)
	entrySize   = len(Hash{}) + 1 + 4 + 4
	blobData    = 16 + 16 + 4 + 1 + 1 + 4
)

// sealer seals and opens the blobs of one pack; one per goroutine.
type sealer struct {
	aead  cipher.AEAD
	nonce [12]byte
	data  [blobData]byte
}

// set points at a blob: its number is the nonce, what it is is authenticated.
func (s *sealer) set(k kind, number uint32, codec Codec, raw uint32) {
	s.nonce[0] = byte(k)
	binary.BigEndian.PutUint32(s.nonce[8:], number)
	binary.BigEndian.PutUint32(s.data[32:], number)
	s.data[36], s.data[37] = byte(k), byte(codec)
	binary.BigEndian.PutUint32(s.data[38:], raw)
}

func (k *keyring) sealer(id PackID) (*sealer, error) {
	aead, err := k.pack(id)
	if err != nil {
		return nil, err
	}
	s := &sealer{aead: aead}
	copy(s.data[:16], k.id[:])
	copy(s.data[16:32], id[:])
	return s, nil
}

// pack is one that is being filled.
type pack struct {
	*sealer
	id     PackID
	buf    []byte
	footer []byte
	count  uint32
	limit  int
}

// packRoom is how large a buffer has to be so that nothing in a pack of limit bytes ever moves it.
func packRoom(limit int) int { return limit + s2.MaxEncodedLen(MaxBlob) - MaxBlob + MaxBlob/8 }

// fits reports whether raw bytes more leave the pack within its limit, whatever they compress to.
func (p *pack) fits(raw int) bool {
	return p.count == 0 || len(p.buf)+raw+len(p.footer)+entrySize+2*tagSize+trailerSize <= p.limit
}

// add compresses and seals data into the pack.
func (p *pack) add(c *compressor, hash Hash, data []byte) Blob {
	at := len(p.buf)
	buf, codec := c.append(p.buf, data)
	b := Blob{Pack: p.id, Number: p.count, Offset: uint32(at), Raw: uint32(len(data)), Codec: codec} //nolint:gosec // a pack has at most 32 MiB
	p.set(kindBlob, b.Number, codec, b.Raw)
	p.buf = p.aead.Seal(buf[:at], p.nonce[:], buf[at:], p.data[:])
	b.Stored = uint32(len(p.buf) - at) //nolint:gosec // a pack has at most 32 MiB
	p.footer = append(p.footer, hash[:]...)
	p.footer = append(p.footer, byte(codec))
	p.footer = binary.BigEndian.AppendUint32(p.footer, b.Stored)
	p.footer = binary.BigEndian.AppendUint32(p.footer, b.Raw)
	p.count++
	return b
}

// finish adds the footer and the trailer, and returns the pack.
func (p *pack) finish() []byte {
	p.set(kindFooter, p.count, None, uint32(len(p.footer))) //nolint:gosec // a pack has at most 32 MiB
	p.buf = p.aead.Seal(p.buf, p.nonce[:], p.footer, p.data[:])
	p.buf = binary.BigEndian.AppendUint32(p.buf, uint32(len(p.footer)+tagSize)) //nolint:gosec // a pack has at most 32 MiB
	p.buf = binary.BigEndian.AppendUint32(p.buf, p.count)
	p.buf = append(p.buf, packMagic...)
	return p.buf
}

// Entry of a pack's footer.
type packEntry struct {
	Hash Hash
	Blob Blob
}

// trailer is the end of a pack, read.
type trailer struct{ footer, count uint32 }

func parseTrailer(id PackID, size int64, end []byte) (trailer, error) {
	if size > maxPack || len(end) != trailerSize || string(end[8:]) != packMagic {
		return trailer{}, damaged(id.object(), "it does not end as a pack does")
	}
	t := trailer{binary.BigEndian.Uint32(end), binary.BigEndian.Uint32(end[4:])}
	if t.footer < tagSize || int64(t.footer)+int64(trailerSize) > size || uint64(t.count)*uint64(entrySize)+tagSize != uint64(t.footer) {
		return trailer{}, damaged(id.object(), "its end claims %d blobs in %d bytes", t.count, t.footer)
	}
	return t, nil
}

// parseFooter reads a sealed footer; size is the whole pack's.
func (k *keyring) parseFooter(id PackID, size int64, t trailer, sealed []byte) ([]packEntry, error) {
	s, err := k.sealer(id)
	if err != nil {
		return nil, err
	}
	s.set(kindFooter, t.count, None, t.footer-tagSize)
	plain, err := s.aead.Open(nil, s.nonce[:], sealed, s.data[:])
	if err != nil || len(plain)%entrySize != 0 {
		return nil, damaged(id.object(), "its footer: %w", errAuth)
	}
	entries := make([]packEntry, 0, len(plain)/entrySize)
	offset := uint32(0)
	for i := range t.count {
		e := plain[int(i)*entrySize:]
		b := Blob{
			Pack: id, Number: i, Offset: offset, Codec: Codec(e[16]),
			Stored: binary.BigEndian.Uint32(e[17:]), Raw: binary.BigEndian.Uint32(e[21:]),
		}
		if err := b.check(); err != nil {
			return nil, damaged(id.object(), "%w", err)
		}
		offset += b.Stored
		entries = append(entries, packEntry{Hash(e[:16]), b})
	}
	if int64(offset)+int64(t.footer)+int64(trailerSize) != size {
		return nil, damaged(id.object(), "it has %d bytes, its footer tells of %d", size, offset)
	}
	return entries, nil
}

// footer reads what a pack of that size holds.
func (r *Repo) footer(ctx context.Context, id PackID, size int64) ([]packEntry, error) {
	if size < int64(trailerSize) {
		return nil, damaged(id.object(), "it has %d bytes", size)
	}
	end, err := r.st.Get(ctx, id.object(), size-int64(trailerSize), int64(trailerSize))
	if err != nil {
		return nil, err
	}
	t, err := parseTrailer(id, size, end)
	if err != nil {
		return nil, err
	}
	sealed, err := r.st.Get(ctx, id.object(), size-int64(trailerSize)-int64(t.footer), int64(t.footer))
	if err != nil {
		return nil, err
	}
	if err := r.knowEpoch(ctx, id); err != nil {
		return nil, err
	}
	return r.ring.parseFooter(id, size, t, sealed)
}
