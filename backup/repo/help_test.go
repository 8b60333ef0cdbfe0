package repo_test

import (
	"slices"

	"rootstream/backup/pgdata"
	"rootstream/backup/repo"
	"rootstream/backup/wal"
)

func sortFiles(files []repo.File) {
	slices.SortFunc(files, func(a, b repo.File) int { return pgdata.ComparePaths(a.Path, b.Path) })
}

// repoLSN gives each id a position of its own, in the order of ids.
func repoLSN(id string) (lsn wal.LSN) {
	for _, c := range []byte(id) {
		lsn = lsn<<4 + wal.LSN(c&15)
	}
	return lsn
}
