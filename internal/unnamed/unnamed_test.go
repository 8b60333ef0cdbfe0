package unnamed_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"rootstream/internal/unnamed"
)

func TestAFileHasNoNameAndCanBeUsed(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	f, err := unnamed.File()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = os.Stat(f.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its name: %v", err)
	}
	got := make([]byte, 4)
	if _, err = f.WriteString("kept"); err == nil {
		_, err = f.ReadAt(got, 0)
	}
	if err = errors.Join(err, f.Close()); err != nil || string(got) != "kept" {
		t.Errorf("%q, %v", got, err)
	}
}
