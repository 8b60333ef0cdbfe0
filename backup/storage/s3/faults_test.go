package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"rootstream/backup/storage"
	"rootstream/backup/storage/s3"
	"rootstream/backup/storage/storagetest"
	"rootstream/secret"
	"rootstream/tests/faultproxy"
	"rootstream/tests/harness"
)

func TestWhatSucceedsOverAnUnreliableLineIsThereAndWhole(t *testing.T) {
	t.Parallel()
	address, _ := storagetest.S3(t)
	direct := open(t, config(address))
	cfg := config(storagetest.Unreliable(t, address, 0.3, harness.Seed(t)))
	cfg.Patience = time.Minute
	st := open(t, cfg)
	for i := range 12 {
		name, body := fmt.Sprintf("objects/%02d", i), bytes.Repeat([]byte{byte(i)}, 1+i*15000)
		if err := st.Put(t.Context(), name, body); err != nil {
			t.Fatalf("put: %v", err)
		}
		through, err := st.Get(t.Context(), name, 0, -1)
		got, derr := direct.Get(t.Context(), name, 0, -1)
		if err != nil || derr != nil || !bytes.Equal(got, body) || !bytes.Equal(through, body) {
			t.Errorf("%s: %d bytes, %d through the line, of %d; %v, %v", name, len(got), len(through), len(body), err, derr)
		}
		if err := st.Put(t.Context(), name, []byte("other")); !errors.Is(err, storage.ErrExists) {
			t.Errorf("%s is written once more: %v", name, err)
		}
	}
	n := 0
	for o, err := range st.List(t.Context(), "objects/") {
		if err != nil || o.Name != fmt.Sprintf("objects/%02d", n) {
			t.Fatalf("list: %v, %v", o.Name, err)
		}
		n++
	}
	if n != 12 {
		t.Errorf("the list has %d objects", n)
	}
}

// Many add a word each to an object by compare-and-swap, also when the answer is lost: none is forgotten, none is there twice.
func TestSwapsOverAnUnreliableLineAreMadeOnce(t *testing.T) {
	t.Parallel()
	address, _ := storagetest.S3(t)
	cfg := config(storagetest.Unreliable(t, address, 0.25, harness.Seed(t)))
	cfg.Patience = time.Minute
	st := open(t, cfg)
	if _, err := st.Swap(t.Context(), "words", []byte("start"), ""); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const adders, each = 3, 5
	for who := range adders {
		wg.Go(func() {
			for i := 0; i < each; {
				word := fmt.Appendf(nil, " %d-%d", who, i)
				info, err := st.Stat(t.Context(), "words")
				body, gerr := st.Get(t.Context(), "words", 0, -1)
				if err != nil || gerr != nil {
					t.Errorf("read: %v, %v", err, gerr)
					return
				}
				if bytes.Contains(body, word) { // its answer was lost, and others have written since
					i++
					continue
				}
				_, err = st.Swap(t.Context(), "words", append(body, word...), info.Tag)
				if err == nil {
					i++
				} else if !errors.Is(err, storage.ErrChanged) && !errors.Is(err, storage.ErrUnreachable) {
					t.Errorf("swap: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	got, err := st.Get(t.Context(), "words", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	for who := range adders {
		for i := range each {
			if n := bytes.Count(got, fmt.Appendf(nil, " %d-%d", who, i)); n != 1 {
				t.Errorf("word %d-%d is there %d times: %s", who, i, n, got)
			}
		}
	}
}

func TestOnlyWhatIsProvenAbsentIsNotFound(t *testing.T) {
	t.Parallel()
	address, _ := storagetest.S3(t)
	ask := func(change func(*s3.Config)) (error, error) {
		cfg := config(address)
		cfg.Patience = 300 * time.Millisecond
		change(&cfg)
		st := open(t, cfg)
		_, err := st.Get(t.Context(), "absent", 0, -1)
		var lerr error
		for _, fault := range st.List(t.Context(), "") {
			lerr = fault
		}
		return err, lerr
	}
	proxy := faultproxy.New(t, address)
	proxy.Cut()
	for name, c := range map[string]struct {
		change func(*s3.Config)
		want   error
	}{
		"a wrong secret":    {func(c *s3.Config) { c.SecretKey = secret.FromString("wrong") }, storage.ErrDenied},
		"an unknown access": {func(c *s3.Config) { c.AccessKey = "nobody" }, storage.ErrDenied},
		"no such bucket":    {func(c *s3.Config) { c.Bucket = "nowhere" }, storage.ErrDenied},
		"nobody listens":    {func(c *s3.Config) { c.Endpoint = "http://127.0.0.1:1" }, storage.ErrUnreachable},
		"a line that is cut": {func(c *s3.Config) {
			c.Endpoint = "http://" + proxy.Addr()
		}, storage.ErrUnreachable},
	} {
		err, lerr := ask(c.change)
		if !errors.Is(err, c.want) || !errors.Is(lerr, c.want) {
			t.Errorf("%s: get %v, list %v; want %v", name, err, lerr, c.want)
		}
	}
	if err, lerr := ask(func(*s3.Config) {}); !errors.Is(err, storage.ErrNotFound) || lerr != nil {
		t.Errorf("absent: %v, %v", err, lerr)
	}
}

func TestALineOnWhichNothingMovesIsGivenUp(t *testing.T) {
	t.Parallel()
	address, _ := storagetest.S3(t)
	proxy := faultproxy.New(t, address)
	cfg := config(proxy.Addr())
	cfg.Stall, cfg.Patience = 300*time.Millisecond, 500*time.Millisecond
	st := open(t, cfg)
	if err := st.Put(t.Context(), "a", []byte("a")); err != nil {
		t.Fatal(err)
	}
	proxy.BlackHole(faultproxy.ToClient)
	if _, err := st.Get(t.Context(), "a", 0, -1); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("a read that is not answered: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := st.Put(ctx, "b", []byte("b")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write whose context ends: %v", err)
	}
	proxy.Heal()
	if got, err := st.Get(t.Context(), "a", 0, -1); err != nil || string(got) != "a" {
		t.Errorf("after it moves again: %q, %v", got, err)
	}
}

// Whoever waits for a storage that does not answer, or answers nothing but errors, is told so while it is tried.
func TestWaitingForAStorageIsTold(t *testing.T) {
	t.Parallel()
	address, _ := storagetest.S3(t)
	silent := faultproxy.New(t, address)
	silent.BlackHole(faultproxy.Both)
	for name, c := range map[string]struct {
		address string
		told    bool
	}{
		"nobody listens": {"127.0.0.1:1", true},
		"no answer":      {silent.Addr(), true},
		"it is there":    {address, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			cfg := config(c.address)
			cfg.Stall, cfg.Patience, cfg.Logger = 5*time.Second, 5*time.Second, slog.New(slog.NewTextHandler(&log, nil))
			st := open(t, cfg)
			_, _ = st.Now(t.Context())
			_ = st.Delete(t.Context(), "absent")
			if lines := strings.Count(log.String(), "waiting for the storage"); lines > 1 || c.told != (lines == 1) || c.told && !strings.Contains(log.String(), "for_at_most=5s") {
				t.Errorf("it is said: %s", log.String())
			}
		})
	}
}
