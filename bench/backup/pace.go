package main

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// pace is how fast the machine was over a run: the same small work on all processors is timed before each turn. Where
// they are shared with others, what a turn costs differs by as much.
type pace struct{ fastest, slowest time.Duration }

func (p *pace) take() {
	const piece, times = 1 << 20, 64
	data := make([]byte, piece)
	began := time.Now()
	var all sync.WaitGroup
	for range runtime.NumCPU() {
		all.Go(func() {
			for range times {
				sha256.Sum256(data)
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	if p.fastest == 0 || took < p.fastest {
		p.fastest = took
	}
	p.slowest = max(p.slowest, took)
}

// String says by how much it differed.
func (p *pace) String() string {
	return fmt.Sprintf("A fixed piece of work, done before each turn on all processors, took at most %.2f times as long as at best.",
		float64(p.slowest)/float64(p.fastest))
}
