package wire_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"rootstream/backup/base/wire"
)

// listing is a manifest of empty files.
func listing(paths ...string) []byte {
	var files []string
	for _, p := range paths {
		files = append(files, fmt.Sprintf(`{"Path": %q, "Size": 0, "Checksum-Algorithm": "CRC32C", "Checksum": "00000000"}`, p))
	}
	text := `{"Files": [` + strings.Join(files, ",\n") + "],\n"
	return fmt.Appendf([]byte(text), "\"Manifest-Checksum\": \"%x\"}\n", sha256.Sum256([]byte(text)))
}

func TestAManifestListsWhatHasArrivedInWhateverOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		arrived string
		listed  string
		says    string // "": nothing
	}{
		{"the same order", "a b c d", "a b c d", ""},
		{"backwards", "a b c d", "d c b a", ""},
		{"one step behind", "d a b c", "a b c d", ""},
		{"one less", "a b c d", "a b c", `does not list "d"`},
		{"one less in between", "a b c d", "a c d", `does not list "b"`},
		{"one more", "a b c", "a b c d", `lists "d"`},
		{"one more in between", "a c d", "a b c d", `lists "b"`},
		{"another", "a b c d", "a b x d", `lists "x"`},
		{"one twice", "a b b c", "a b c", `does not list "b"`},
		{"one twice, never listed", "a b b", "a c d", "twice"},
		{"nothing", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := wire.Compare(listing(strings.Fields(tt.listed)...), strings.Fields(tt.arrived)...)
			if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, it should say %q", err, tt.says)
			}
		})
	}
}

func TestAPathIsReadBackAsLongAsItCameOrRefused(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("a", 1024)
	if err := wire.Compare(listing(longest, "b"), longest, "b"); err != nil {
		t.Error(err)
	}
	longer := "pg_tblspc/16384/" + longest
	if err := wire.Compare(listing(longer, "b"), longer, "b"); err == nil || !strings.Contains(err.Error(), "the path has 1040 bytes") {
		t.Errorf("a longer one: %v", err)
	}
}
