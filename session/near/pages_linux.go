package near

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// largePage is that of most processors; where it is another size, the kernel rounds.
const largePage = 2 << 20

// useLargePages asks for them where they are given to those who ask. An entry
// read at random then waits for its memory alone, not for page tables too. It
// is a wish: without it everything works, a little slower.
func useLargePages[E any](of []E) {
	if size := len(of) * int(unsafe.Sizeof(of[0])); size >= largePage {
		_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(of))), size), unix.MADV_HUGEPAGE) //nolint:gosec // G103: what it takes are bytes
	}
}
