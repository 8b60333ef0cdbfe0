package main

import (
	"context"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

const spare = 1 << 30 // bytes that are left to others

// claim has the machine give all its free memory, and lets it go at once. The hypervisor of a virtual machine may have
// taken what was free for some seconds; whoever needs it next pays for its return, page by page, as much as for all else
// that a restore does. As much as the data takes is not enough: the kernel hands out other pages then, some of them
// taken. A process of its own does it: a child's peak of memory would count its parent's.
func (s *stand) claim(ctx context.Context) error {
	var now unix.Sysinfo_t
	if err := unix.Sysinfo(&now); err != nil {
		return err
	}
	free := int64(now.Freeram) * int64(now.Unit) //nolint:gosec // no machine has that much
	n := free - spare
	if n <= 0 {
		return nil // all memory is in use, so nobody has taken any
	}
	_, err := s.run(ctx, s.self, claimPart, strconv.FormatInt(n, 10))
	return err
}

const claimPart = "claim"

// touch writes to every page of so many bytes of memory. Large pages are asked for, since a file's cache is made of such.
func touch(size string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	_ = unix.Madvise(memory, unix.MADV_HUGEPAGE) // a kernel without them gives small ones
	var all sync.WaitGroup
	for part := range processes {
		all.Go(func() {
			for at := n / processes * part; at < n/processes*(part+1); at += os.Getpagesize() {
				memory[at] = 1
			}
		})
	}
	all.Wait()
	return unix.Munmap(memory)
}
