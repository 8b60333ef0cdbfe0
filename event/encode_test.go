package event

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestDataIsWrittenAsTheStandardLibraryWritesIt compares values of all kinds, also those that are no JSON.
func TestDataIsWrittenAsTheStandardLibraryWritesIt(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "plain", "<&>", "\u2028", "\xff", "\x7f", "\"\\", "\n\x00"}))
	number := rapid.OneOf(rapid.SampledFrom([]string{"0", "1", "01", "-1", "1.5", "1e9", "", "1e", "x", "00"}), rapid.StringMatching(`[0-9]{1,30}`))
	leaf := rapid.OneOf(
		rapid.Just[any](nil), rapid.Bool().AsAny(), text.AsAny(), rapid.Int64().AsAny(), rapid.Float64().AsAny(),
		rapid.Map(number, func(s string) any { return json.Number(s) }),
		rapid.SampledFrom([]any{
			math.NaN(),
			[]string{"a"},
			map[string]int{"<": 1},
			time.Unix(1, 0).UTC(), json.RawMessage(`{"a" : 1}`),
			map[string]any(nil), []any(nil), func() {},
			struct{ A, b int }{1, 2},
			uint8(3),
		}),
	)
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		if depth == 0 {
			return leaf
		}
		return rapid.OneOf(leaf, rapid.MapOfN(text, value(depth-1), 0, 12).AsAny(), rapid.SliceOfN(value(depth-1), 0, 4).AsAny())
	}
	rapid.Check(t, func(t *rapid.T) {
		v := value(3).Draw(t, "value")
		want, wrong := json.Marshal(v)
		got, err := appendJSON([]byte("before"), v, 0)
		switch {
		case (wrong == nil) != (err == nil):
			t.Fatalf("%v, want %v", err, wrong)
		case err == nil && string(got) != "before"+string(want):
			t.Fatalf("%s, want %s", got, want)
		}
	})
	itself := map[string]any{}
	itself["x"] = []any{itself}
	if _, err := appendJSON(nil, itself, 0); err == nil {
		t.Error("what holds itself was written")
	}
}
