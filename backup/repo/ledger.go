package repo

import (
	"context"
	"errors"
	"fmt"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
)

// ledgerName is the one object, besides leases and sessions, that is ever replaced.
const ledgerName = "leases/schedule"

// Ledger returns the schedule's ledger and the tag for SwapLedger; nil and "" if
// there is none yet. It is sealed as everything else: it names hosts, and what
// went wrong in the words of other programs; and what it says, people are told.
func (r *Repo) Ledger(ctx context.Context) ([]byte, string, error) {
	before, err := r.st.Stat(ctx, ledgerName)
	if storage.Gone(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the ledger: %w", err)
	}
	body, err := r.safe.Get(ctx, seal.KindLedger, ledgerName)
	if err != nil {
		return nil, "", fmt.Errorf("read the ledger: %w", err)
	}
	return body, before.Tag, nil // if it changed in between, the tag is old and the swap refused
}

// SwapLedger replaces the ledger that has the tag; storage.ErrChanged if it has another.
func (r *Repo) SwapLedger(ctx context.Context, ledger []byte, tag string) error {
	body, err := r.safe.Seal(seal.KindLedger, ledgerName, ledger)
	if err != nil {
		return err
	}
	if _, err = r.st.Swap(ctx, ledgerName, body, tag); err != nil && !errors.Is(err, storage.ErrChanged) {
		return fmt.Errorf("write the ledger: %w", err)
	}
	return err
}
