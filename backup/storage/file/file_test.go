package file_test

import (
	"testing"

	"rootstream/backup/storage"
	"rootstream/backup/storage/file"
	"rootstream/backup/storage/storagetest"
)

func open(t *testing.T, dir string) *file.Storage {
	t.Helper()
	st, err := file.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func TestAFolderKeepsTheContractOfStorages(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		t.Helper()
		return open(t, t.TempDir()+"/made/on/the/way")
	})
}
