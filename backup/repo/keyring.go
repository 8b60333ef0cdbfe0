package repo

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/google/uuid"
)

const keySize = 32

// keyring holds what the root key of a repository opens. Every use has a key
// of its own, derived by HKDF (RFC 5869).
type keyring struct {
	id   uuid.UUID
	root []byte
	hash []byte // names content

	mu     sync.RWMutex
	epochs map[uint16][]byte // data keys; 0 is derived, the others are drawn
	packs  map[PackID]cipher.AEAD
	latest uint16
}

const cachedPacks = 1024

func newKeyring(id uuid.UUID, root []byte) (*keyring, error) {
	k := &keyring{id: id, root: root, packs: map[PackID]cipher.AEAD{}}
	var err error
	if k.hash, err = k.derive(root, nil, "hash"); err != nil {
		return nil, err
	}
	first, err := k.derive(root, nil, "epoch 0")
	k.epochs = map[uint16][]byte{0: first}
	return k, err
}

func (k *keyring) derive(key, salt []byte, purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, key, salt, "rootstream "+purpose+" "+string(k.id[:]), keySize)
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// gcmAlone draws a nonce for each thing that it seals, and puts it in front.
func gcmAlone(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// object returns what seals the object with that salt.
func (k *keyring) object(salt []byte) (cipher.AEAD, error) {
	key, err := k.derive(k.root, salt, "object")
	if err != nil {
		return nil, err
	}
	return gcmAlone(key)
}

// pack returns what seals a pack's blobs. The keys of packs lately used are kept.
func (k *keyring) pack(id PackID) (cipher.AEAD, error) {
	k.mu.RLock()
	aead, epoch := k.packs[id], k.epochs[id.epoch()]
	k.mu.RUnlock()
	if aead != nil {
		return aead, nil
	}
	if epoch == nil {
		return nil, damaged(id.object(), "its key is of epoch %d, which is not there", id.epoch())
	}
	key, err := k.derive(epoch, id[:], "pack")
	if err != nil {
		return nil, err
	}
	if aead, err = gcm(key); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.packs) >= cachedPacks {
		clear(k.packs)
	}
	k.packs[id] = aead
	return aead, nil
}

func (k *keyring) addEpoch(n uint16, key []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epochs[n] = key
	k.latest = max(k.latest, n)
}

// newPackID draws an id in the newest epoch: epoch, then the session's mark, then chance.
func (k *keyring) newPackID(mark [4]byte) (id PackID, err error) {
	k.mu.RLock()
	binary.BigEndian.PutUint16(id[:2], k.latest)
	k.mu.RUnlock()
	copy(id[2:6], mark[:])
	_, err = rand.Read(id[6:])
	return id, err
}

func randomBytes(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("draw %d random bytes: %w", n, err)
	}
	return b, nil
}
