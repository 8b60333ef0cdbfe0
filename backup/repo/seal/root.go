package seal

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/storage"
)

// rootObject is repo.json: the one object that is read before there is a key.
type rootObject struct {
	Format  int       `json:"format"`
	ID      uuid.UUID `json:"id"`
	Created time.Time `json:"created"`
	Cipher  string    `json:"cipher"`
	Hash    string    `json:"hash"`
	MAC     []byte    `json:"mac"`
	Sum     string    `json:"checksum"` // tells damage from another format or key
}

func (o *rootObject) encode() ([]byte, error) {
	plain := *o
	return encodeSummed(&plain, &plain.Sum)
}

// encodeSummed writes v with its own checksum in it.
func encodeSummed(v any, sum *string) ([]byte, error) {
	*sum = ""
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(body)
	*sum = hex.EncodeToString(hash[:])
	return json.Marshal(v)
}

// RootName is the object that makes a repository of a storage.
const RootName = "repo.json"

const (
	rootFormat = 1
	rootCipher = "AES-256-GCM, HKDF-SHA256"
	rootHash   = "AES-256 of GMAC-AES-256"
)

func readRoot(ctx context.Context, st storage.Storage) (*rootObject, error) {
	body, err := st.Get(ctx, RootName, 0, storage.AtMost(maxKeyObject))
	if errors.Is(err, storage.ErrLarge) {
		return nil, Damaged(RootName, "%w", err)
	}
	if storage.Gone(err) {
		return nil, ErrNoRepository.WithCause(errors.New(st.URL()))
	}
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	return parseRoot(body)
}

// parseRoot reads repo.json; it has to be, to the byte, what makeRoot makes.
func parseRoot(body []byte) (*rootObject, error) {
	var root rootObject
	if len(body) > maxKeyObject {
		return nil, Damaged(RootName, "it has %d bytes, %d are allowed", len(body), maxKeyObject)
	}
	if err := DecodeJSON(body, &root); err != nil {
		return nil, Damaged(RootName, "%w", err)
	}
	if again, err := root.encode(); err != nil || !bytes.Equal(again, body) {
		return nil, Damaged(RootName, "its checksum does not fit")
	}
	if root.Format != rootFormat || root.Cipher != rootCipher || root.Hash != rootHash {
		return nil, ErrFormat.WithCause(fmt.Errorf("%s: format %d, %.40s, %.40s", RootName, root.Format, root.Cipher, root.Hash))
	}
	return &root, nil
}

func (k *keyring) rootMAC(root *rootObject) ([]byte, error) {
	key, err := k.derive(k.root, nil, RootName)
	if err != nil {
		return nil, err
	}
	plain := *root
	plain.MAC, plain.Sum = nil, ""
	body, err := json.Marshal(plain)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(body)
	return mac.Sum(nil), nil
}

// makeRoot writes the keys first and repo.json last: whoever writes it first has created the repository.
func makeRoot(ctx context.Context, st storage.Storage, keys []Key) error {
	for _, prefix := range []string{"clusters/", "packs/"} {
		for o, err := range st.List(ctx, prefix) {
			if err != nil {
				return err
			}
			return Damaged(RootName, "it is missing, though there is %s", o.Name)
		}
	}
	secret, err := RandomBytes(keySize)
	if err != nil {
		return err
	}
	now, err := st.Now(ctx)
	if err != nil {
		return fmt.Errorf("create the repository: %w", err)
	}
	ring, err := newKeyring(uuid.New(), secret)
	if err != nil {
		return err
	}
	var ids []string
	for _, key := range keys {
		id, fault := addKey(ctx, st, ring, key)
		if fault != nil {
			return fault
		}
		ids = append(ids, id)
	}
	root := &rootObject{Format: rootFormat, ID: ring.id, Created: now.UTC().Truncate(time.Second), Cipher: rootCipher, Hash: rootHash}
	if root.MAC, err = ring.rootMAC(root); err != nil {
		return err
	}
	body, err := root.encode()
	if err != nil {
		return err
	}
	err = st.Put(ctx, RootName, body)
	if !errors.Is(err, storage.ErrExists) {
		return err
	}
	for _, id := range ids { // somebody else was first
		if err = st.Delete(ctx, keyName(id)); err != nil {
			return err
		}
	}
	return nil
}

// unlock finds a key that opens the repository.
func unlock(ctx context.Context, st storage.Storage, id uuid.UUID, keys []Key) ([]byte, error) {
	objects, bad := keyObjects(ctx, st, id)
	for _, o := range objects {
		for _, key := range keys {
			root, err := o.unwrap(key)
			if root != nil || err != nil {
				return root, err
			}
		}
	}
	if bad != nil {
		return nil, fmt.Errorf("open the repository: %w", bad)
	}
	if len(objects) == 0 {
		return nil, Damaged(keysPrefix, "no key of repository %v is left", id)
	}
	return nil, ErrWrongKey.WithCause(errors.New(st.URL()))
}
