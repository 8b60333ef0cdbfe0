package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"rootstream/errs"
)

// Probes is where the names of what [Prove] writes begin. What lies there for a day is nobody's.
const Probes = "probes/"

const proving = time.Minute // for removing the probe

// Prove finds out whether a storage keeps to the conditions of Put and Swap. Everything that many writers do at once rests
// on them, and a service that does not know them overwrites without a word: ErrUnfit. It leaves nothing behind.
func Prove(ctx context.Context, st Storage) error {
	var err error
	for range attempts {
		if err = prove(ctx, st); !errors.Is(err, ErrInDoubt) {
			break
		}
	}
	return err
}

const attempts = 5 // where answers are lost on the way

func prove(ctx context.Context, st Storage) (err error) {
	name := Probes + rand.Text()
	defer func() {
		if err != nil {
			err = fmt.Errorf("try the storage: %w", err)
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), proving)
		defer cancel()
		err = errors.Join(err, st.Delete(last, name))
	}()
	if err = st.Put(ctx, name, []byte("first")); err != nil {
		return err
	}
	if err = refused(st.Put(ctx, name, []byte("second")), ErrExists, "it overwrites what was to be created once (If-None-Match)"); err != nil {
		return err
	}
	first, err := st.Stat(ctx, name)
	if err != nil {
		return err
	}
	if _, err = st.Swap(ctx, name, []byte("third"), first.Tag); errors.Is(err, ErrChanged) {
		return ErrUnfit.WithCause(errors.New("it does not know the tag (ETag) again that it gave"))
	} else if err != nil {
		return err
	}
	for _, tag := range []string{first.Tag, ""} {
		_, err = st.Swap(ctx, name, []byte("fourth"), tag)
		if err = refused(err, ErrChanged, "it overwrites what somebody else has changed (If-Match)"); err != nil {
			return err
		}
	}
	return nil
}

// refused wants a write to have been refused.
func refused(err error, as *errs.Error, what string) error {
	switch {
	case err == nil:
		return ErrUnfit.WithCause(errors.New(what)).
			WithHint("keep the repository on a service with conditional writes (If-None-Match and If-Match on PUT), or in a folder")
	case errors.Is(err, as):
		return nil
	}
	return err
}

// MayWrite tries whether a storage lets us write, and changes nothing: an object that is there is to be created once more, as it is.
func MayWrite(ctx context.Context, st Storage, object string) error {
	const most = 1 << 20
	body, err := st.Get(ctx, object, 0, AtMost(most))
	if err == nil {
		err = st.Put(ctx, object, body)
	}
	if err == nil || errors.Is(err, ErrExists) {
		return nil
	}
	return fmt.Errorf("try to write: %w", err)
}
