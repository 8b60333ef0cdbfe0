package secret

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	aeadsubtle "github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const (
	minMasterKey = 32   // bytes
	maxMasterKey = 4096 // bytes: anything longer is some other file
)

// MasterKey opens keysets. It comes from a file and never prints.
type MasterKey struct {
	key  Secret
	path string // read again when the key in use stops fitting; may be empty
}

// LoadMasterKey reads a master key file: at least 32 bytes once white space
// around them is cut off, in a file that only its owner can read.
func LoadMasterKey(path string) (MasterKey, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if errors.Is(err, fs.ErrNotExist) {
		return MasterKey{}, ErrMasterKeyMissing.WithCause(err).
			WithHint(fmt.Sprintf("create it: (umask 077; head -c 32 /dev/urandom | base64 > %s)", path))
	}
	if err != nil {
		return MasterKey{}, ErrMasterKeyFile.WithCause(err).WithHint("let the user that runs rootstream own " + path)
	}
	defer f.Close() //nolint:errcheck // only read from
	st, err := f.Stat()
	if err != nil {
		return MasterKey{}, ErrMasterKeyFile.WithCause(err)
	}
	if !st.Mode().IsRegular() {
		return MasterKey{}, ErrMasterKeyFile.WithCause(fmt.Errorf("%s is not a regular file", path))
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return MasterKey{}, ErrMasterKeyOpen.WithCause(fmt.Errorf("%s has mode %04o", path, perm)).
			WithHint("run: chmod 600 " + path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxMasterKey+1))
	if err != nil {
		return MasterKey{}, ErrMasterKeyFile.WithCause(err)
	}
	if len(raw) > maxMasterKey {
		return MasterKey{}, ErrMasterKeyFile.WithCause(fmt.Errorf("%s is longer than %d bytes", path, maxMasterKey))
	}
	m, err := NewMasterKey(raw)
	if err != nil {
		return MasterKey{}, fmt.Errorf("read %s: %w", path, err)
	}
	m.path = path
	return m, nil
}

// NewMasterKey makes a master key of bytes that came from elsewhere than a file.
func NewMasterKey(raw []byte) (MasterKey, error) {
	trimmed := bytes.TrimSpace(raw)
	if len(trimmed) < minMasterKey {
		return MasterKey{}, ErrMasterKeyShort.WithCause(fmt.Errorf("%d bytes after trimming", len(trimmed))).
			WithHint("make one with: head -c 32 /dev/urandom | base64")
	}
	return MasterKey{key: FromBytes(trimmed)}, nil
}

// NewMasterKeyFile creates a master key file of 32 random bytes, mode 0600. It
// never replaces a file, and the file never exists half written.
func NewMasterKeyFile(path string) (MasterKey, error) {
	raw := make([]byte, minMasterKey)
	if _, err := rand.Read(raw); err != nil {
		return MasterKey{}, fmt.Errorf("draw a master key: %w", err)
	}
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".master-key-*") // 0600, O_EXCL
	if err != nil {
		return MasterKey{}, ErrMasterKeyFile.WithCause(err)
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // the link below is what stays
	_, err = tmp.WriteString(base64.StdEncoding.EncodeToString(raw) + "\n")
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return MasterKey{}, fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return MasterKey{}, ErrMasterKeyExists.WithCause(err).WithHint("keep it: it opens what it sealed; or name another file")
		}
		return MasterKey{}, ErrMasterKeyFile.WithCause(err)
	}
	if err := syncDir(dir); err != nil {
		return MasterKey{}, fmt.Errorf("write %s: %w", path, err)
	}
	return LoadMasterKey(path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the folder of the file just written
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// IsZero reports whether there is no key.
func (m MasterKey) IsZero() bool { return m.key.IsZero() }

// ID returns a fingerprint that tells master keys apart and gives nothing of them away.
func (m MasterKey) ID() string {
	id, err := hkdf.Key(sha256.New, m.key.bytes(), nil, "rootstream master key id v1", 8)
	if err != nil {
		return ""
	}
	return hex.EncodeToString(id)
}

// String returns a placeholder.
func (MasterKey) String() string { return redacted }

// wrapper derives the key that encrypts one version of one keyset.
func (m MasterKey) wrapper(salt []byte, name string) (tink.AEAD, error) {
	key, err := hkdf.Key(sha256.New, m.key.bytes(), salt, "rootstream keyset wrap v1:"+name, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the wrapping key: %w", err)
	}
	a, err := aeadsubtle.NewAESGCM(key)
	if err != nil {
		return nil, fmt.Errorf("derive the wrapping key: %w", err)
	}
	return a, nil
}
