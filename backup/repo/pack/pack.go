package pack

import (
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"rootstream/backup/repo/codec"
	"rootstream/backup/repo/seal"
)

// MaxBlob is how many bytes a blob holds at most.
const MaxBlob = codec.Window

const (
	// DefaultSize is how large a pack becomes.
	DefaultSize = 16 << 20
	// MaxSize is how large a pack may be.
	MaxSize = 32 << 20
)

// ID names a pack: the epoch of its key (2 bytes), the mark of the session
// that made it (4), and chance (10). Nobody continues a pack or uses its name again.
type ID [16]byte

func (p ID) epoch() uint16 { return binary.BigEndian.Uint16(p[:2]) }

// Mark is that of the session that made the pack.
func (p ID) Mark() [4]byte { return [4]byte(p[2:6]) }

// Object is the name of the pack's object.
func (p ID) Object() string {
	name := hex.EncodeToString(p[:])
	return Prefix + name[12:14] + "/" + name
}

// Prefix is what the names of all packs begin with.
const Prefix = "packs/"

// String returns the id in hexadecimal.
func (p ID) String() string { return hex.EncodeToString(p[:]) }

// MarshalText is String.
func (p ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, p[:]), nil }

// UnmarshalText reads what String returns.
func (p *ID) UnmarshalText(text []byte) error { return seal.Unhex(p[:], text) }

// Compare orders packs.
func Compare(a, b ID) int { return slices.Compare(a[:], b[:]) }

// ParseName tells which pack an object is.
func ParseName(name string) (ID, bool) {
	var id ID
	const at = len(Prefix) + 3
	ok := len(name) > at && id.UnmarshalText([]byte(name[at:])) == nil && id.Object() == name
	return id, ok
}

// Blob says where a blob is, and all that is needed to read and authenticate it. The zero Blob is none.
type Blob struct {
	Pack   ID
	Number uint32 // in its pack
	Offset uint32 // in its pack
	Stored uint32 // bytes there, with the seal
	Raw    uint32 // bytes of plain data
	Codec  codec.Codec
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
	if err := seal.Unhex(form[:], text); err != nil {
		return err
	}
	b.Pack = ID(form[:16])
	for i, n := range []*uint32{&b.Number, &b.Offset, &b.Stored, &b.Raw} {
		*n = binary.BigEndian.Uint32(form[16+4*i:])
	}
	b.Codec = codec.Codec(form[32])
	return b.Check()
}

// Check refuses what no pack can hold.
func (b Blob) Check() error {
	switch {
	case b.Raw == 0 || b.Raw > MaxBlob, b.Stored < tagSize+1 || b.Stored > MaxBlob+tagSize:
		return fmt.Errorf("blob %d of pack %v has %d bytes, stored in %d", b.Number, b.Pack, b.Raw, b.Stored)
	case uint64(b.Offset)+uint64(b.Stored) > MaxSize:
		return fmt.Errorf("blob %d of pack %v lies at %d", b.Number, b.Pack, b.Offset)
	case !b.Codec.Known():
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
	entrySize   = len(seal.Hash{}) + 1 + 4 + 4
	blobData    = 16 + 16 + 4 + 1 + 1 + 4
	tagSize     = 16 // of a seal
)

// kind tells what is sealed in a pack, so that none passes for another.
type kind byte

const (
	kindBlob   kind = 'b'
	kindFooter kind = 'f'
)

// sealer seals and opens the blobs of one pack; one per goroutine.
type sealer struct {
	aead  cipher.AEAD
	nonce [12]byte
	data  [blobData]byte
}

// set points at a blob: its number is the nonce, what it is is authenticated.
func (s *sealer) set(k kind, number uint32, how codec.Codec, raw uint32) {
	s.nonce[0] = byte(k)
	binary.BigEndian.PutUint32(s.nonce[8:], number)
	binary.BigEndian.PutUint32(s.data[32:], number)
	s.data[36], s.data[37] = byte(k), byte(how)
	binary.BigEndian.PutUint32(s.data[38:], raw)
}

func newSealer(aead cipher.AEAD, repository uuid.UUID, id ID) *sealer {
	s := &sealer{aead: aead}
	copy(s.data[:16], repository[:])
	copy(s.data[16:32], id[:])
	return s
}

// pack is one that is being filled.
type pack struct {
	*sealer
	id     ID
	buf    []byte
	footer []byte
	count  uint32
	limit  int
}

// packRoom is how large a buffer has to be so that nothing in a pack of limit bytes ever moves it.
func packRoom(limit int) int { return limit + codec.Room(MaxBlob) }

// fits reports whether raw bytes more leave the pack within its limit, whatever they compress to.
func (p *pack) fits(raw int) bool {
	return p.count == 0 || len(p.buf)+raw+len(p.footer)+entrySize+2*tagSize+trailerSize <= p.limit
}

// add compresses and seals data into the pack.
func (p *pack) add(c *codec.Compressor, hash seal.Hash, data []byte) Blob {
	at := len(p.buf)
	buf, how := c.Append(p.buf, data)
	b := Blob{Pack: p.id, Number: p.count, Offset: uint32(at), Raw: uint32(len(data)), Codec: how} //nolint:gosec // a pack has at most 32 MiB
	p.set(kindBlob, b.Number, how, b.Raw)
	p.buf = p.aead.Seal(buf[:at], p.nonce[:], buf[at:], p.data[:])
	b.Stored = uint32(len(p.buf) - at) //nolint:gosec // a pack has at most 32 MiB
	p.footer = append(p.footer, hash[:]...)
	p.footer = append(p.footer, byte(how))
	p.footer = binary.BigEndian.AppendUint32(p.footer, b.Stored)
	p.footer = binary.BigEndian.AppendUint32(p.footer, b.Raw)
	p.count++
	return b
}

// finish adds the footer and the trailer, and returns the pack.
func (p *pack) finish() []byte {
	p.set(kindFooter, p.count, codec.None, uint32(len(p.footer))) //nolint:gosec // a pack has at most 32 MiB
	p.buf = p.aead.Seal(p.buf, p.nonce[:], p.footer, p.data[:])
	p.buf = binary.BigEndian.AppendUint32(p.buf, uint32(len(p.footer)+tagSize)) //nolint:gosec // a pack has at most 32 MiB
	p.buf = binary.BigEndian.AppendUint32(p.buf, p.count)
	p.buf = append(p.buf, packMagic...)
	return p.buf
}

// entry is one of a pack's footer.
type entry struct {
	Hash seal.Hash
	Blob Blob
}

// trailer is the end of a pack, read.
type trailer struct{ footer, count uint32 }

func parseTrailer(id ID, size int64, end []byte) (trailer, error) {
	if size > MaxSize || len(end) != trailerSize || string(end[8:]) != packMagic {
		return trailer{}, seal.Damaged(id.Object(), "it does not end as a pack does")
	}
	t := trailer{binary.BigEndian.Uint32(end), binary.BigEndian.Uint32(end[4:])}
	if t.footer < tagSize || int64(t.footer)+int64(trailerSize) > size || uint64(t.count)*uint64(entrySize)+tagSize != uint64(t.footer) {
		return trailer{}, seal.Damaged(id.Object(), "its end claims %d blobs in %d bytes", t.count, t.footer)
	}
	return t, nil
}

// parse reads a sealed footer; size is the whole pack's.
func (t trailer) parse(s *sealer, id ID, size int64, sealed []byte) ([]entry, error) {
	s.set(kindFooter, t.count, codec.None, t.footer-tagSize)
	plain, err := s.aead.Open(nil, s.nonce[:], sealed, s.data[:])
	if err != nil || len(plain)%entrySize != 0 {
		return nil, seal.Damaged(id.Object(), "its footer: %w", seal.ErrForged)
	}
	entries := make([]entry, 0, len(plain)/entrySize)
	offset := uint32(0)
	for i := range t.count {
		e := plain[int(i)*entrySize:]
		b := Blob{
			Pack: id, Number: i, Offset: offset, Codec: codec.Codec(e[16]),
			Stored: binary.BigEndian.Uint32(e[17:]), Raw: binary.BigEndian.Uint32(e[21:]),
		}
		if err := b.Check(); err != nil {
			return nil, seal.Damaged(id.Object(), "%w", err)
		}
		offset += b.Stored
		entries = append(entries, entry{seal.Hash(e[:16]), b})
	}
	if int64(offset)+int64(t.footer)+int64(trailerSize) != size {
		return nil, seal.Damaged(id.Object(), "it has %d bytes, its footer tells of %d", size, offset)
	}
	return entries, nil
}
