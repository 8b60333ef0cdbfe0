package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
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
	mac  cipher.AEAD  // names content,
	last cipher.Block // with this: see Hash

	mu     sync.RWMutex
	epochs map[uint16][]byte // data keys; 0 is derived, the others are drawn
	packs  map[[16]byte]cipher.AEAD
	latest uint16
}

const cachedPacks = 1024

func newKeyring(id uuid.UUID, root []byte) (*keyring, error) {
	k := &keyring{id: id, root: root, packs: map[[16]byte]cipher.AEAD{}}
	var keys [3][]byte
	for i, purpose := range []string{"epoch 0", "hash", "last step of hash"} {
		var err error
		if keys[i], err = k.derive(root, nil, purpose); err != nil {
			return nil, err
		}
	}
	k.epochs = map[uint16][]byte{0: keys[0]}
	var err error
	if k.mac, err = gcm(keys[1]); err != nil {
		return nil, err
	}
	k.last, err = aes.NewCipher(keys[2])
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

// blobs returns what seals the blobs of a pack, or nil if its epoch is not known. Those of packs lately used are kept.
func (k *keyring) blobs(epoch uint16, pack [16]byte) (cipher.AEAD, error) {
	k.mu.RLock()
	aead, key := k.packs[pack], k.epochs[epoch]
	k.mu.RUnlock()
	if aead != nil || key == nil {
		return aead, nil
	}
	key, err := k.derive(key, pack[:], "pack")
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
	k.packs[pack] = aead
	return aead, nil
}

func (k *keyring) addEpoch(n uint16, key []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epochs[n] = key
	k.latest = max(k.latest, n)
}

func (k *keyring) newest() uint16 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.latest
}

// RandomBytes draws n of them.
func RandomBytes(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("draw %d random bytes: %w", n, err)
	}
	return b, nil
}
