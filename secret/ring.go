package secret

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// canaryText is what the canary says once it is opened.
const canaryText = "rootstream canary: this keyset and this master key belong together"

// meta describes the keys. It is readable in the row, and bound to the
// encrypted keysets as associated data, so that it cannot be altered there.
type meta struct {
	Keys      []keyMeta `json:"keys"`       // oldest first
	Primary   int       `json:"primary"`    // index of the key that seals; a later one is pending
	PromoteAt int64     `json:"promote_at"` // Unix milliseconds of the database's clock; 0 means nothing is pending
}

type keyMeta struct {
	Seal    uint32 `json:"seal"`   // Tink id in the sealing keyset
	Derive  uint32 `json:"derive"` // Tink id in the deriving keyset
	AddedAt int64  `json:"added_at"`
}

// envelope is the column wrapped.
type envelope struct {
	Format int    `json:"format"`
	Master string `json:"master"` // MasterKey.ID
	Salt   []byte `json:"salt"`
	Meta   meta   `json:"meta"`
	Seal   []byte `json:"seal"`
	Derive []byte `json:"derive"`
}

// ring is one version of a keyset, opened. It does not change once made.
type ring struct {
	name     string
	revision int64
	master   MasterKey
	meta     meta
	seal     *keyset.Handle
	derive   *keyset.Handle

	aead   tink.AEAD
	prfs   []prf.PRF                            // primary first, then the newest
	known  map[uint32]bool                      // ids of sealing keys
	macMu  sync.Mutex                           // writers of macs
	macSet atomic.Pointer[map[string][]*macKey] // by purpose, in the order of prfs
}

// newRing makes the keyset of a database that has none.
func newRing(name string, master MasterKey, now int64) (*ring, error) {
	r := &ring{name: name, master: master}
	seal, derive := keyset.NewManager(), keyset.NewManager()
	k, err := addKey(seal, derive, now)
	if err != nil {
		return nil, err
	}
	r.meta.Keys = []keyMeta{k}
	return r.finish(seal, derive)
}

func addKey(seal, derive *keyset.Manager, now int64) (keyMeta, error) {
	s, err := seal.Add(aead.XAES256GCM192BitNonceKeyTemplate())
	if err != nil {
		return keyMeta{}, fmt.Errorf("make a sealing key: %w", err)
	}
	d, err := derive.Add(prf.HKDFSHA256PRFKeyTemplate())
	if err != nil {
		return keyMeta{}, fmt.Errorf("make a deriving key: %w", err)
	}
	return keyMeta{Seal: s, Derive: d, AddedAt: now}, nil
}

// withNewKey returns a ring that knows one key more and still seals with the old one.
func (r *ring) withNewKey(now, promoteAt int64) (*ring, error) {
	seal, derive := keyset.NewManagerFromHandle(r.seal), keyset.NewManagerFromHandle(r.derive)
	k, err := addKey(seal, derive, now)
	if err != nil {
		return nil, err
	}
	n := &ring{name: r.name, master: r.master, meta: r.meta}
	n.meta.Keys = append(slices.Clone(r.meta.Keys), k)
	n.meta.PromoteAt = promoteAt
	return n.finish(seal, derive)
}

// promoted returns a ring that seals with the newest key.
func (r *ring) promoted() (*ring, error) {
	n := &ring{name: r.name, master: r.master, meta: r.meta}
	n.meta.Primary = len(r.meta.Keys) - 1
	n.meta.PromoteAt = 0
	return n.finish(keyset.NewManagerFromHandle(r.seal), keyset.NewManagerFromHandle(r.derive))
}

func (r *ring) finish(seal, derive *keyset.Manager) (*ring, error) {
	p := r.meta.Keys[r.meta.Primary]
	if err := seal.SetPrimary(p.Seal); err != nil {
		return nil, fmt.Errorf("choose the sealing key: %w", err)
	}
	if err := derive.SetPrimary(p.Derive); err != nil {
		return nil, fmt.Errorf("choose the deriving key: %w", err)
	}
	var err error
	if r.seal, err = seal.Handle(); err != nil {
		return nil, fmt.Errorf("read the sealing keyset: %w", err)
	}
	if r.derive, err = derive.Handle(); err != nil {
		return nil, fmt.Errorf("read the deriving keyset: %w", err)
	}
	return r, r.prepare()
}

// prepare makes the primitives out of the handles.
func (r *ring) prepare() error {
	var err error
	if r.aead, err = aead.New(r.seal); err != nil {
		return fmt.Errorf("prepare the sealing keyset: %w", err)
	}
	set, err := prf.NewPRFSet(r.derive)
	if err != nil {
		return fmt.Errorf("prepare the deriving keyset: %w", err)
	}
	primary := r.meta.Keys[r.meta.Primary]
	r.known = map[uint32]bool{}
	r.prfs = append(r.prfs[:0], set.PRFs[primary.Derive])
	for _, k := range slices.Backward(r.meta.Keys) {
		r.known[k.Seal] = true
		if k != primary {
			r.prfs = append(r.prfs, set.PRFs[k.Derive])
		}
	}
	for _, p := range r.prfs {
		if p == nil {
			return fmt.Errorf("prepare the deriving keyset: a key is missing")
		}
	}
	r.macSet.Store(&map[string][]*macKey{})
	return nil
}

func (r *ring) primary() uint32 { return r.meta.Keys[r.meta.Primary].Seal }
func (r *ring) pending() bool   { return r.meta.Primary < len(r.meta.Keys)-1 }

// wrap encrypts the ring under its master key, with a fresh salt each time.
func (r *ring) wrap() (wrapped, canary []byte, err error) {
	e := envelope{Format: 1, Master: r.master.ID(), Salt: make([]byte, 16), Meta: r.meta}
	if _, err = rand.Read(e.Salt); err != nil {
		return nil, nil, fmt.Errorf("wrap the keyset: %w", err)
	}
	w, err := r.master.wrapper(e.Salt, r.name)
	if err != nil {
		return nil, nil, err
	}
	var seal, derive bytes.Buffer
	if err = r.seal.WriteWithAssociatedData(keyset.NewBinaryWriter(&seal), w, e.bind(r.name, "seal")); err != nil {
		return nil, nil, fmt.Errorf("wrap the keyset: %w", err)
	}
	if err = r.derive.WriteWithAssociatedData(keyset.NewBinaryWriter(&derive), w, e.bind(r.name, "derive")); err != nil {
		return nil, nil, fmt.Errorf("wrap the keyset: %w", err)
	}
	e.Seal, e.Derive = seal.Bytes(), derive.Bytes()
	if wrapped, err = json.Marshal(e); err != nil {
		return nil, nil, fmt.Errorf("wrap the keyset: %w", err)
	}
	canary, err = r.sealFor(canaryAD(r.name), []byte(canaryText))
	return wrapped, canary, err
}

// unwrap opens a row of keysets and proves the result by its canary.
func unwrap(row keysetRow, master MasterKey) (*ring, error) {
	var e envelope
	if err := json.Unmarshal(row.wrapped, &e); err != nil {
		return nil, ErrKeysetDamaged.WithCause(err)
	}
	if e.Format != 1 {
		return nil, ErrKeysetDamaged.WithCause(fmt.Errorf("format %d is not known", e.Format)).
			WithHint("run the release that wrote it, or a newer one")
	}
	if e.Master != master.ID() {
		return nil, ErrWrongMasterKey.WithCause(fmt.Errorf("keyset %q was wrapped by master key %q, this one is %q", row.name, e.Master, master.ID()))
	}
	if e.Meta.Primary < 0 || e.Meta.Primary >= len(e.Meta.Keys) {
		return nil, ErrKeysetDamaged
	}
	w, err := master.wrapper(e.Salt, row.name)
	if err != nil {
		return nil, err
	}
	r := &ring{name: row.name, revision: row.revision, master: master, meta: e.Meta}
	r.seal, err = keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(e.Seal)), w, e.bind(row.name, "seal"))
	if err != nil {
		return nil, ErrKeysetDamaged.WithCause(err)
	}
	r.derive, err = keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(e.Derive)), w, e.bind(row.name, "derive"))
	if err != nil {
		return nil, ErrKeysetDamaged.WithCause(err)
	}
	if err = r.prepare(); err != nil {
		return nil, ErrKeysetDamaged.WithCause(err)
	}
	text, err := r.unseal(canaryAD(row.name), row.canary)
	if err != nil {
		return nil, ErrKeysetDamaged.WithCause(fmt.Errorf("the canary of keyset %q does not open: %w", row.name, err))
	}
	if string(text) != canaryText {
		return nil, ErrKeysetDamaged.WithCause(fmt.Errorf("the canary of keyset %q says something else", row.name))
	}
	return r, nil
}

// bind is the associated data of an encrypted keyset: which it is, and what is said about it in the clear.
func (e envelope) bind(name, part string) []byte {
	m, _ := json.Marshal(e.Meta) // integers and a slice of them
	return append([]byte("rs1:keysets:wrapped:"+name+":"+part+":"), m...)
}

func canaryAD(name string) AD { return AD{Table: "keysets", Column: "canary", Row: name} }
