package s3_test

import (
	"errors"
	"testing"

	"rootstream/backup/storage"
	"rootstream/backup/storage/storagetest"
)

func TestAServiceThatReadsNoConditionsIsFoundUnfit(t *testing.T) {
	t.Parallel()
	address, _ := storagetest.S3(t)
	for name, headers := range map[string][]string{
		"creates again": {"If-None-Match"},
		"swaps blindly": {"If-Match"},
		"does both":     {"If-None-Match", "If-Match"},
	} {
		st := open(t, config(storagetest.Deaf(t, address, headers...)))
		if err := storage.Prove(t.Context(), st); !errors.Is(err, storage.ErrUnfit) {
			t.Errorf("one that %s: %v", name, err)
		}
		for o, err := range st.List(t.Context(), "") {
			t.Errorf("left is %s, %v", o.Name, err)
		}
	}
}
