package base

import (
	"iter"
	"slices"

	"rootstream/backup/repo"
)

// pages cuts data into pages; the last may be short.
func pages(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for i := 0; i*pageSize < len(data); i++ {
			if !yield(i, data[i*pageSize:min((i+1)*pageSize, len(data))]) {
				return
			}
		}
	}
}

// holds returns the number of the extent that has a page of the file.
func holds(f *repo.File, page uint32) (int, bool) {
	i, exact := slices.BinarySearchFunc(f.Extents, page, func(e repo.Extent, p uint32) int { return int(int64(e.Page) - int64(p)) })
	if !exact {
		i--
	}
	if i < 0 || f.Extents[i].Page+f.Extents[i].Pages <= page {
		return 0, false
	}
	return i, true
}

func parentExtent(f *repo.File, page uint32) (repo.Extent, bool) {
	i, found := holds(f, page)
	if !found {
		return repo.Extent{}, false
	}
	return f.Extents[i], true
}

// parentExtents goes through the pieces of a file's extents that hold a run of its pages.
func parentExtents(f *repo.File, page, count uint32) iter.Seq[repo.Extent] {
	return func(yield func(repo.Extent) bool) {
		i, found := holds(f, page)
		for end := page + count; found && page < end && i < len(f.Extents); i++ {
			e := f.Extents[i]
			skip := page - e.Page
			e.Page, e.Pages = page, min(e.Pages-skip, end-page)
			if e.Blob.Raw > 0 {
				e.At += skip
			}
			if !yield(e) {
				return
			}
			page += e.Pages
		}
	}
}
