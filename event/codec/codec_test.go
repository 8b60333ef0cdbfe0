package codec_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"rootstream/errs"
	"rootstream/event/codec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 1 << 20

func newCodec(t testing.TB) *codec.Codec { //nolint:thelper // for fuzzing too
	t.Helper()
	c, err := codec.New(limit)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatWasEncodedIsDecoded(t *testing.T) {
	t.Parallel()
	c := newCodec(t)
	noise := make([]byte, limit)
	_, _ = rand.Read(noise)
	for _, content := range [][]byte{nil, []byte("{}"), noise, bytes.Repeat([]byte("state"), limit/5)} {
		form := c.Encode(codec.Full, content)
		got, err := c.Decode(codec.Full, form)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes come back as %d, %v", len(content), len(got), err)
		}
	}
	if n := len(c.Encode(codec.Full, bytes.Repeat([]byte("state"), limit/5))); n > limit/100 {
		t.Errorf("a megabyte that repeats itself is encoded in %d bytes", n)
	}
	rapid.Check(t, func(t *rapid.T) {
		content, kind := rapid.SliceOf(rapid.Byte()).Draw(t, "content"), rapid.Byte().Draw(t, "kind")
		got, err := c.Decode(kind, c.Encode(kind, content))
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%x comes back as %x, %v", content, got, err)
		}
	})
}

func TestWhatWasAlteredIsRefused(t *testing.T) {
	t.Parallel()
	c := newCodec(t)
	content := []byte(strings.Repeat(`{"title":"a title"}`, 20))
	form := c.Encode(codec.Aggregate, content)
	for i := range form {
		for _, flip := range []byte{1, 0x80} {
			bad := bytes.Clone(form)
			bad[i] ^= flip
			if got, err := c.Decode(codec.Aggregate, bad); errs.KindOf(err) != errs.Invalid && !bytes.Equal(got, content) {
				t.Errorf("byte %d altered: %q, %v", i, got, err)
			}
		}
		if got, err := c.Decode(codec.Aggregate, form[:i]); errs.KindOf(err) != errs.Invalid {
			t.Errorf("cut off at %d: %q, %v", i, got, err)
		}
	}
	other := append(bytes.Clone(form[:5+32]), c.Encode(codec.Aggregate, []byte("other"))[5+32:]...)
	for name, tt := range map[string]struct {
		form []byte
		want error
	}{
		"another kind":    {c.Encode(codec.Delta, content), codec.ErrKind},
		"nothing":         {nil, codec.ErrFormat},
		"another version": {append([]byte("RSS2"), form[4:]...), codec.ErrFormat},
		"another content": {other, codec.ErrHash},
		"a bomb":          {c.Encode(codec.Aggregate, make([]byte, 100*limit)), codec.ErrTooLarge},
		"one byte more":   {c.Encode(codec.Aggregate, make([]byte, limit+1)), codec.ErrTooLarge},
	} {
		if _, err := c.Decode(codec.Aggregate, tt.form); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestACodecIsForMany(t *testing.T) {
	t.Parallel()
	c := newCodec(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			content := bytes.Repeat([]byte{byte(i)}, 1000*i)
			if got, err := c.Decode(codec.Full, c.Encode(codec.Full, content)); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

func FuzzDecode(f *testing.F) {
	c := newCodec(f)
	f.Add([]byte("RSS1a"))
	f.Add(c.Encode(codec.Aggregate, []byte(`{"a":1}`)))
	f.Add(c.Encode(codec.Aggregate, make([]byte, 2*limit)))
	f.Fuzz(func(t *testing.T, form []byte) {
		content, err := c.Decode(codec.Aggregate, form)
		if err != nil && errs.KindOf(err) != errs.Invalid {
			t.Errorf("%v, want kind Invalid", err)
		}
		if err != nil {
			return
		}
		if len(content) > limit {
			t.Errorf("%d bytes are more than allowed", len(content))
		}
		if again, err := c.Decode(codec.Aggregate, c.Encode(codec.Aggregate, content)); err != nil || !bytes.Equal(again, content) {
			t.Errorf("it does not come back: %v", err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	c := newCodec(b)
	content := []byte(strings.Repeat(`{"title":"a title of some length","viewers":12345}`, 20))
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		c.Encode(codec.Aggregate, content)
	}
}
