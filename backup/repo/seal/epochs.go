package seal

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

type epochObject struct {
	Epoch   uint16    `json:"epoch"`
	Created time.Time `json:"created"`
	Key     []byte    `json:"key"`
}

const epochsPrefix = "epochs/"

func epochName(n uint16) string { return fmt.Sprintf(epochsPrefix+"%05d", n) }

func (s *Safe) loadEpochs(ctx context.Context) error {
	for o, err := range s.st.List(ctx, epochsPrefix) {
		if err != nil {
			return fmt.Errorf("open the repository: %w", err)
		}
		if err := s.loadEpoch(ctx, o.Name); errors.Is(err, ErrDamaged) {
			s.log.ErrorContext(ctx, "a data key cannot be read: its packs cannot be either", "err", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (s *Safe) loadEpoch(ctx context.Context, name string) error {
	var e epochObject
	n, err := strconv.ParseUint(strings.TrimPrefix(name, epochsPrefix), 10, 16)
	if err != nil || epochName(uint16(n)) != name {
		return Damaged(name, "it does not belong here")
	}
	if err := s.GetJSON(ctx, KindEpoch, name, &e); err != nil {
		return err
	}
	if uint64(e.Epoch) != n || n == 0 || len(e.Key) != keySize {
		return Damaged(name, "it holds no key of this epoch")
	}
	s.ring.addEpoch(e.Epoch, e.Key)
	return nil
}

// RotateData draws a new key for packs to come. Those that are there keep theirs.
func (s *Safe) RotateData(ctx context.Context) error {
	if err := s.loadEpochs(ctx); err != nil {
		return err
	}
	key, err := RandomBytes(keySize)
	if err != nil {
		return err
	}
	now, err := s.st.Now(ctx)
	if err != nil {
		return err
	}
	next := s.ring.newest() + 1
	if next == 0 {
		return ErrInvalid.WithCause(errors.New("there are no more epochs"))
	}
	if err := s.PutJSON(ctx, KindEpoch, epochName(next), epochObject{next, now.UTC(), key}); err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	s.ring.addEpoch(next, key)
	return nil
}

// Epoch is the one whose key new packs get.
func (s *Safe) Epoch() uint16 { return s.ring.newest() }

// Blobs returns what seals the blobs of a pack. Epochs that were begun since are read.
func (s *Safe) Blobs(ctx context.Context, epoch uint16, pack [16]byte) (cipher.AEAD, error) {
	aead, err := s.ring.blobs(epoch, pack)
	if aead != nil || err != nil {
		return aead, err
	}
	if err = s.loadEpochs(ctx); err != nil {
		return nil, err
	}
	aead, err = s.ring.blobs(epoch, pack)
	if aead == nil && err == nil {
		err = Damaged(epochName(epoch), "it is not there, or cannot be read, and pack %x needs it", pack)
	}
	return aead, err
}
