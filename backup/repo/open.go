package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/storage"
)

// Config says how to use a repository.
type Config struct {
	Create     bool          // create the repository if there is none
	NewCluster bool          // let a cluster in though the repository belongs to another
	PackSize   int           // bytes a pack has at most; 0 means 16 MiB, at most 32 MiB
	Uploads    int           // packs on their way at once; 0 means 4
	Rate       int64         // bytes per second that are uploaded; 0 means no limit
	LeaseTTL   time.Duration // a run that has not said for so long that it lives is dead; 0 means 60 s
	Logger     *slog.Logger  // nil means slog.Default
}

const (
	defaultPack = 16 << 20
	maxPack     = 32 << 20
)

func (c Config) withDefaults() Config {
	c.PackSize = cmp.Or(c.PackSize, defaultPack)
	c.Uploads = cmp.Or(c.Uploads, 4)
	c.LeaseTTL = cmp.Or(c.LeaseTTL, time.Minute)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

func (c Config) validate() error {
	switch {
	case c.PackSize < 4<<10 || c.PackSize > maxPack:
		return ErrInvalid.WithCause(fmt.Errorf("a pack of %d bytes: 4096 to %d are allowed", c.PackSize, maxPack))
	case c.Uploads < 1 || c.Uploads > 64:
		return ErrInvalid.WithCause(fmt.Errorf("%d uploads at once: 1 to 64 are allowed", c.Uploads))
	case c.Rate < 0 || c.LeaseTTL < 0:
		return ErrInvalid.WithCause(errors.New("rates and times are not negative"))
	}
	return nil
}

// Repo is an open repository. It is safe for concurrent use.
type Repo struct {
	st      storage.Storage
	cfg     Config
	keys    []Key
	ring    *keyring
	decomp  *decompressor
	objects sync.Pool // of *compressor, for sealed objects
	systems sync.Map  // uint64: clusters that may write here
}

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

const (
	rootName   = "repo.json"
	rootFormat = 1
	rootCipher = "AES-256-GCM, HKDF-SHA256"
	rootHash   = "HMAC-SHA256-128"
)

// Open opens the repository in st with any of keys.
func Open(ctx context.Context, st storage.Storage, keys []Key, cfg Config) (*Repo, error) {
	cfg = cfg.withDefaults()
	err := cfg.validate()
	if len(keys) == 0 {
		err = errors.Join(err, ErrKey.WithCause(errors.New("none is given")))
	}
	for _, k := range keys {
		_, bad := k.bytes()
		err = errors.Join(err, bad)
	}
	if err != nil {
		return nil, err
	}
	root, err := readRoot(ctx, st)
	if errors.Is(err, ErrNoRepository) && cfg.Create {
		if err = create(ctx, st, keys); err == nil {
			root, err = readRoot(ctx, st)
		}
	}
	if err != nil {
		return nil, err
	}
	return open(ctx, st, root, keys, cfg)
}

func open(ctx context.Context, st storage.Storage, root *rootObject, keys []Key, cfg Config) (*Repo, error) {
	secret, err := unlock(ctx, st, root.ID, keys)
	if err != nil {
		return nil, err
	}
	r := &Repo{st: st, cfg: cfg, keys: keys}
	if r.ring, err = newKeyring(root.ID, secret); err != nil {
		return nil, err
	}
	mac, err := r.ring.rootMAC(root)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(mac, root.MAC) {
		return nil, damaged(rootName, "%w", errAuth)
	}
	if r.decomp, err = newDecompressor(); err != nil {
		return nil, err
	}
	if _, err := newCompressor(Compression{}); err != nil {
		return nil, err
	}
	r.objects.New = func() any {
		c, _ := newCompressor(Compression{}) // it worked just before
		return c
	}
	return r, r.loadEpochs(ctx)
}

// ID is the repository's own.
func (r *Repo) ID() uuid.UUID { return r.ring.id }

// URL names where the repository is, without credentials.
func (r *Repo) URL() string { return r.st.URL() }

// Now is the time by the storage's clock.
func (r *Repo) Now(ctx context.Context) (time.Time, error) { return r.st.Now(ctx) }

func readRoot(ctx context.Context, st storage.Storage) (*rootObject, error) {
	body, err := st.Get(ctx, rootName, 0, -1)
	if isGone(err) {
		return nil, ErrNoRepository.WithCause(errors.New(st.URL()))
	}
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	return parseRoot(body)
}

// parseRoot reads repo.json; it has to be, to the byte, what create makes.
func parseRoot(body []byte) (*rootObject, error) {
	var root rootObject
	if len(body) > maxKeyObject {
		return nil, damaged(rootName, "it has %d bytes, %d are allowed", len(body), maxKeyObject)
	}
	if err := decodeJSON(body, &root); err != nil {
		return nil, damaged(rootName, "%w", err)
	}
	if again, err := root.encode(); err != nil || !bytes.Equal(again, body) {
		return nil, damaged(rootName, "its checksum does not fit")
	}
	if root.Format != rootFormat || root.Cipher != rootCipher || root.Hash != rootHash {
		return nil, ErrFormat.WithCause(fmt.Errorf("%s: format %d, %.40s, %.40s", rootName, root.Format, root.Cipher, root.Hash))
	}
	return &root, nil
}

func (k *keyring) rootMAC(root *rootObject) ([]byte, error) {
	key, err := k.derive(k.root, nil, rootName)
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

// create writes the keys first and repo.json last: whoever writes it first has created the repository.
func create(ctx context.Context, st storage.Storage, keys []Key) error {
	for _, prefix := range []string{"clusters/", "packs/"} {
		for o, err := range st.List(ctx, prefix) {
			if err != nil {
				return err
			}
			return damaged(rootName, "it is missing, though there is %s", o.Name)
		}
	}
	secret, err := randomBytes(keySize)
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
	err = st.Put(ctx, rootName, body)
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
		return nil, damaged("keys/", "no key of repository %v is left", id)
	}
	return nil, ErrWrongKey.WithCause(errors.New(st.URL()))
}

type epochObject struct {
	Epoch   uint16    `json:"epoch"`
	Created time.Time `json:"created"`
	Key     []byte    `json:"key"`
}

func epochName(n uint16) string { return fmt.Sprintf("epochs/%05d", n) }

func (r *Repo) loadEpochs(ctx context.Context) error {
	for o, err := range r.st.List(ctx, "epochs/") {
		if err != nil {
			return fmt.Errorf("open the repository: %w", err)
		}
		if err := r.loadEpoch(ctx, o.Name); errors.Is(err, ErrDamaged) {
			r.cfg.Logger.ErrorContext(ctx, "a data key cannot be read: its packs cannot be either", "err", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (r *Repo) loadEpoch(ctx context.Context, name string) error {
	var e epochObject
	n, err := strconv.ParseUint(strings.TrimPrefix(name, "epochs/"), 10, 16)
	if err != nil || epochName(uint16(n)) != name {
		return damaged(name, "it does not belong here")
	}
	if err := r.getJSON(ctx, kindEpoch, name, &e); err != nil {
		return err
	}
	if uint64(e.Epoch) != n || n == 0 || len(e.Key) != keySize {
		return damaged(name, "it holds no key of this epoch")
	}
	r.ring.addEpoch(e.Epoch, e.Key)
	return nil
}

// RotateData draws a new key for packs to come. Those that are there keep theirs.
func (r *Repo) RotateData(ctx context.Context) error {
	if err := r.loadEpochs(ctx); err != nil {
		return err
	}
	key, err := randomBytes(keySize)
	if err != nil {
		return err
	}
	now, err := r.st.Now(ctx)
	if err != nil {
		return err
	}
	r.ring.mu.RLock()
	next := r.ring.latest + 1
	r.ring.mu.RUnlock()
	if next == 0 {
		return ErrInvalid.WithCause(errors.New("there are no more epochs"))
	}
	if err := r.putJSON(ctx, kindEpoch, epochName(next), epochObject{next, now.UTC(), key}); err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	r.ring.addEpoch(next, key)
	return nil
}

// decodeJSON reads one JSON value and nothing else, with no field that v does not have.
func decodeJSON(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end")
	}
	return nil
}
