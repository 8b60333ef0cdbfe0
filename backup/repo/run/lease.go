package run

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/errs"
	"rootstream/internal/wait"
)

const leasesPrefix = "leases/"

type leaseObject struct {
	Session uuid.UUID `json:"session"`
}

// leaseFree refuses early: no session is written for a lease that is held.
func (b *Book) leaseFree(ctx context.Context, lease string) error {
	if lease == "" {
		return nil
	}
	_, err := b.leaseTag(ctx, lease, uuid.Nil)
	return err
}

// leaseTag returns the tag of a lease whose holder is over, for a session that wants it.
func (b *Book) leaseTag(ctx context.Context, lease string, session uuid.UUID) (string, error) {
	name := leasesPrefix + lease
	info, err := b.st.Stat(ctx, name)
	if storage.Gone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var held leaseObject
	var holder string
	unreadable := b.safe.GetJSON(ctx, seal.KindLease, name, &held)
	switch {
	case unreadable == nil:
		holder, err = b.bury(ctx, sessionsPrefix+held.Session.String())
	case storage.Gone(unreadable):
		return "", nil
	case errors.Is(unreadable, seal.ErrDamaged):
		holder, err = b.holder(ctx, lease, session)
	default:
		return "", unreadable
	}
	if err != nil {
		return "", err
	}
	if holder != "" {
		return "", ErrLeaseHeld.WithCause(errors.New(holder))
	}
	if unreadable != nil && info.Tag == "" { // what is so large that it has none cannot be replaced
		return "", errs.Of(unreadable).WithHint("no run is under way that has this lease: remove " + name + " from " + b.st.URL())
	}
	return info.Tag, nil
}

// holder finds, for a session that wants it, who has a lease that cannot be read: whoever may have it.
func (b *Book) holder(ctx context.Context, lease string, session uuid.UUID) (string, error) {
	all, err := b.Records(ctx)
	if err != nil {
		return "", err
	}
	for _, o := range all {
		if o.ID == session || o.Over() || o.Lease != lease && !o.damaged() {
			continue
		}
		if alive, err := b.bury(ctx, o.Object()); err != nil || alive != "" {
			return alive, err
		}
	}
	return "", nil
}

// takeLease makes the session the holder of the lease. It never gives it back: a lease whose holder is over is free.
func (b *Book) takeLease(ctx context.Context, lease string, session uuid.UUID) error {
	if lease == "" {
		return nil
	}
	if strings.Contains(lease, "/") {
		return seal.ErrInvalid.WithCause(fmt.Errorf("lease %q", lease))
	}
	name := leasesPrefix + lease
	body, err := b.safe.SealJSON(seal.KindLease, name, leaseObject{session})
	if err != nil {
		return err
	}
	for {
		tag, err := b.leaseTag(ctx, lease, session)
		if err != nil {
			return err
		}
		_, err = b.st.Swap(ctx, name, body, tag)
		if !errors.Is(err, storage.ErrChanged) {
			return err
		}
		if err := wait.For(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
