package seal

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/argon2"

	"rootstream/backup/storage"
	"rootstream/secret"
)

// Kinds of keys.
const (
	KeyFile       = "file"       // at least 32 bytes of chance
	KeyPassphrase = "passphrase" // words: stretched with Argon2id (RFC 9106)
)

// Key opens a repository.
type Key struct {
	Secret secret.Secret
	Kind   string
}

// KeyInfo is what a repository tells about one of its keys.
type KeyInfo struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Created time.Time `json:"created"`
	Opens   bool      `json:"opens"` // one of the keys given is this one
}

const (
	minFileKey    = 32
	minPassphrase = 12
	maxKey        = 4096
	maxKeyObject  = 8 << 10
	keyFormat     = 1
)

// bytes returns what the key is made of; white space around it does not count.
func (k Key) bytes() ([]byte, error) {
	raw := bytes.TrimSpace(k.Secret.Bytes())
	least := minFileKey
	switch k.Kind {
	case KeyFile:
	case KeyPassphrase:
		least = minPassphrase
	default:
		return nil, ErrKey.WithCause(fmt.Errorf("kind %q: it is %s or %s", k.Kind, KeyFile, KeyPassphrase))
	}
	if len(raw) < least || len(raw) > maxKey {
		return nil, ErrKey.WithCause(fmt.Errorf("a key of kind %s has %d to %d bytes, this one %d", k.Kind, least, maxKey, len(raw))).
			WithHint("make a key file with: (umask 077; head -c 32 /dev/urandom | base64 > FILE)")
	}
	return raw, nil
}

// keyObject is an object in keys/: the root key, sealed by a key that somebody holds.
type keyObject struct {
	Format     int           `json:"format"`
	Repository uuid.UUID     `json:"repository"`
	ID         string        `json:"id"`
	Kind       string        `json:"kind"`
	Created    time.Time     `json:"created"`
	Salt       []byte        `json:"salt"`
	Argon2     *argon2Params `json:"argon2,omitempty"`
	Sealed     []byte        `json:"sealed"`
	Checksum   string        `json:"checksum"` // tells damage from a wrong key
}

type argon2Params struct {
	MemoryKiB uint32 `json:"memory_kib"`
	Passes    uint32 `json:"passes"`
	Threads   uint8  `json:"threads"`
}

// passphraseCost is RFC 9106's second choice.
func passphraseCost() *argon2Params { return &argon2Params{MemoryKiB: 64 << 10, Passes: 3, Threads: 4} }

func (p *argon2Params) sane() bool {
	return p != nil && p.MemoryKiB >= 8<<10 && p.MemoryKiB <= 1<<20 && p.Passes >= 1 && p.Passes <= 32 && p.Threads >= 1 && p.Threads <= 16
}

// wrappingKey turns what somebody holds into the key that seals the root key.
func (o *keyObject) wrappingKey(raw []byte) ([]byte, error) {
	if o.Kind == KeyPassphrase {
		return argon2.IDKey(raw, o.Salt, o.Argon2.Passes, o.Argon2.MemoryKiB, o.Argon2.Threads, keySize), nil
	}
	return hkdf.Key(sha256.New, raw, o.Salt, "rootstream repository key", keySize)
}

// head is what is authenticated with the sealed root key: everything else.
func (o *keyObject) head() ([]byte, error) {
	head := *o
	head.Sealed, head.Checksum = nil, ""
	return json.Marshal(head)
}

func (o *keyObject) encode() ([]byte, error) { return encodeSummed(o, &o.Checksum) }

// parseKeyObject reads an object in keys/; it has to be, to the byte, what encode makes.
func parseKeyObject(name string, body []byte) (*keyObject, error) {
	var o keyObject
	if len(body) > maxKeyObject {
		return nil, Damaged(name, "it has %d bytes, %d are allowed", len(body), maxKeyObject)
	}
	if err := DecodeJSON(body, &o); err != nil {
		return nil, Damaged(name, "%w", err)
	}
	again, err := o.encode()
	switch {
	case err != nil || !bytes.Equal(again, body):
		return nil, Damaged(name, "its checksum does not fit")
	case o.Format != keyFormat:
		return nil, ErrFormat.WithCause(fmt.Errorf("%s has format %d", name, o.Format))
	case keyName(o.ID) != name || len(o.Salt) != saltSize:
		return nil, Damaged(name, "it belongs elsewhere")
	case o.Kind == KeyPassphrase && !o.Argon2.sane(), o.Kind != KeyPassphrase && o.Kind != KeyFile:
		return nil, Damaged(name, "it asks for what no version of ours wrote")
	}
	return &o, nil
}

const keysPrefix = "keys/"

func keyName(id string) string { return keysPrefix + id }

// wrap seals root for the holder of key.
func wrap(key Key, repository uuid.UUID, root []byte, now time.Time) (*keyObject, error) {
	raw, err := key.bytes()
	if err != nil {
		return nil, err
	}
	id, err := RandomBytes(8)
	if err != nil {
		return nil, err
	}
	salt, err := RandomBytes(saltSize)
	if err != nil {
		return nil, err
	}
	o := &keyObject{Format: keyFormat, Repository: repository, ID: hex.EncodeToString(id), Kind: key.Kind, Created: now.UTC().Truncate(time.Second), Salt: salt}
	if key.Kind == KeyPassphrase {
		o.Argon2 = passphraseCost()
	}
	return o, o.seal(raw, root)
}

func (o *keyObject) seal(raw, root []byte) error {
	kek, err := o.wrappingKey(raw)
	if err != nil {
		return err
	}
	aead, err := gcmAlone(kek)
	if err != nil {
		return err
	}
	head, err := o.head()
	if err != nil {
		return err
	}
	o.Sealed = aead.Seal(nil, nil, root, head) //nolint:gosec // this AEAD draws its nonces
	return nil
}

// unwrap returns the root key, or nil if key is not the one.
func (o *keyObject) unwrap(key Key) ([]byte, error) {
	raw, err := key.bytes()
	if err != nil || key.Kind != o.Kind {
		return nil, err
	}
	kek, err := o.wrappingKey(raw)
	if err != nil {
		return nil, err
	}
	aead, err := gcmAlone(kek)
	if err != nil {
		return nil, err
	}
	head, err := o.head()
	if err != nil {
		return nil, err
	}
	root, err := aead.Open(nil, nil, o.Sealed, head)
	if err != nil || len(root) != keySize {
		return nil, nil //nolint:nilerr // another key's: try the next
	}
	return root, nil
}

// keyObjects reads the repository's key objects; the damaged ones are in the error.
func keyObjects(ctx context.Context, st storage.Storage, repository uuid.UUID) ([]*keyObject, error) {
	var found []*keyObject
	var bad error
	for o, err := range st.List(ctx, keysPrefix) {
		if err != nil {
			return nil, err
		}
		body, err := st.Get(ctx, o.Name, 0, min(o.Size, maxKeyObject+1))
		if storage.Gone(err) {
			continue // rotated away meanwhile
		}
		if err != nil {
			return nil, err
		}
		k, err := parseKeyObject(o.Name, body)
		if err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		if k.Repository == repository { // others are of somebody who lost the race to create it
			found = append(found, k)
		}
	}
	return found, bad
}

// AddKey lets one more key open the repository, and returns its id.
func (s *Safe) AddKey(ctx context.Context, key Key) (string, error) {
	return addKey(ctx, s.st, s.ring, key)
}

func addKey(ctx context.Context, st storage.Storage, ring *keyring, key Key) (string, error) {
	now, err := st.Now(ctx)
	if err != nil {
		return "", fmt.Errorf("add a key: %w", err)
	}
	o, err := wrap(key, ring.id, ring.root, now)
	if err != nil {
		return "", err
	}
	body, err := o.encode()
	if err != nil {
		return "", err
	}
	if err := st.Put(ctx, keyName(o.ID), body); err != nil {
		return "", fmt.Errorf("add a key: %w", err)
	}
	return o.ID, nil
}

// RemoveKey takes a key away, but never the last. Only one may do so at a time; should somebody have been taken for dead
// and do so all the same, what was the last one then is put back.
func (s *Safe) RemoveKey(ctx context.Context, id string) error {
	if storage.CheckName(keyName(id)) != nil || strings.Contains(id, "/") {
		return ErrNoKey.WithCause(fmt.Errorf("%q", id))
	}
	all, err := keyObjects(ctx, s.st, s.ring.id)
	if err != nil && len(all) == 0 {
		return err
	}
	i := slices.IndexFunc(all, func(o *keyObject) bool { return o.ID == id })
	if i < 0 {
		return ErrNoKey.WithCause(errors.New(id))
	}
	if len(all) == 1 {
		return ErrLastKey
	}
	if err = s.st.Delete(ctx, keyName(id)); err != nil {
		return err
	}
	left, unknown := keyObjects(ctx, s.st, s.ring.id)
	if len(left) > 0 {
		return nil
	}
	body, err := all[i].encode()
	if err == nil {
		err = s.st.Put(context.WithoutCancel(ctx), keyName(id), body)
	}
	return errors.Join(cmp.Or(unknown, error(ErrLastKey)), err)
}

// ListKeys tells which keys open the repository. Damaged ones are in the error.
func (s *Safe) ListKeys(ctx context.Context) ([]KeyInfo, error) {
	all, bad := keyObjects(ctx, s.st, s.ring.id)
	infos := make([]KeyInfo, 0, len(all))
	for _, o := range all {
		info := KeyInfo{ID: o.ID, Kind: o.Kind, Created: o.Created}
		for _, key := range s.keys {
			root, err := o.unwrap(key)
			if err != nil {
				return nil, err
			}
			info.Opens = info.Opens || root != nil
		}
		infos = append(infos, info)
	}
	return infos, bad
}
