package run_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rootstream/backup/repo/run"
	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/backup/storage/file"
	"rootstream/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deaf is a storage that at times hears no Swap; what is read arrives.
type deaf struct {
	storage.Storage
	now atomic.Bool
}

func (d *deaf) Swap(ctx context.Context, name string, body []byte, tag string) (string, error) {
	if d.now.Load() {
		return "", storage.ErrUnreachable.WithCause(errors.New("nothing is heard"))
	}
	return d.Storage.Swap(ctx, name, body, tag)
}

func newBook(t *testing.T) (*run.Book, *deaf) {
	t.Helper()
	st, err := file.Open(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	d := &deaf{Storage: st}
	key := seal.Key{Secret: secret.FromString(strings.Repeat("k", 32)), Kind: seal.KeyFile}
	safe, err := seal.Open(t.Context(), d, []seal.Key{key}, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return run.NewBook(safe, time.Hour, d.Delete, slog.New(slog.DiscardHandler)), d
}

func begin(t *testing.T, b *run.Book) (*run.Run, context.Context) {
	t.Helper()
	r, ctx, err := b.Begin(t.Context(), run.Info{Kind: "backup", Lease: "writer"}, func(context.Context) ([]string, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.End)
	return r, ctx
}

func TestWhatTheStorageDoesNotHearIsNotDone(t *testing.T) {
	t.Parallel()
	b, d := newBook(t)
	r, ctx := begin(t, b)
	if err := r.Commit(ctx, "clusters/1/backups/a/manifest"); err != nil {
		t.Fatal(err)
	}
	d.now.Store(true)
	if err := r.Committed(ctx); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("said to count: %v", err)
	}
	if err := r.Confirm(ctx); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("said to live: %v", err)
	}
	if o, err := b.Record(ctx, r.ID()); err != nil || o.State != run.Committing {
		t.Errorf("the record says %v, %v", o, err)
	}
	d.now.Store(false)
	if err := r.Committed(ctx); err != nil {
		t.Error(err)
	}
	if o, err := b.Record(ctx, r.ID()); err != nil || o.State != run.Committed {
		t.Errorf("the record says %v, %v", o, err)
	}
}

func TestARunKnowsWhatItLearnedBeforeItBegan(t *testing.T) {
	t.Parallel()
	b, _ := newBook(t)
	var then []*run.Record
	r, ctx, err := b.Begin(t.Context(), run.Info{Kind: "backup"}, func(ctx context.Context) (_ []string, err error) {
		then, err = b.Records(ctx) // others see it already, and wait for it
		return []string{"one"}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.End)
	if len(then) != 1 || then[0].Ready {
		t.Errorf("while it learns there is %v", then)
	}
	if o, err := b.Record(ctx, r.ID()); err != nil || !o.Ready || len(o.Seen) != 1 {
		t.Errorf("then %v, %v", o, err)
	}
}

func TestARunThatLearnsNothingLeavesNothing(t *testing.T) {
	t.Parallel()
	b, _ := newBook(t)
	broken := errors.New("broken")
	if _, _, err := b.Begin(t.Context(), run.Info{Kind: "backup", Lease: "writer"}, func(context.Context) ([]string, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if all, err := b.Records(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	begin(t, b) // and the lease is free
}
