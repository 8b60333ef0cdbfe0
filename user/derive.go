package user

import (
	"context"

	"golang.org/x/crypto/argon2"
)

// Derive turns a short secret and its salt into 32 bytes, at the cost of a
// password and in the same queue: what backup codes need.
func (h *Hasher) Derive(ctx context.Context, password, salt []byte) ([]byte, error) {
	done, err := h.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c := h.cfg.Cost
	return argon2.IDKey(password, salt, c.Time, c.MemoryKiB, c.Parallelism, keySize), nil
}
