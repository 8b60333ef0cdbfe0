package main

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// pace is how fast the machine was over a run: the same small work on all processors is timed before each turn. Where
// they are shared with others, what a turn costs differs by as much.
type pace struct{ took []time.Duration }

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
	p.took = append(p.took, time.Since(began))
}

// String says by how much it differed.
func (p *pace) String() string {
	slices.Sort(p.took)
	best, n := p.took[0].Seconds(), len(p.took)
	return fmt.Sprintf("A fixed piece of work, done before each turn on all processors, took %.2f times as long as at best in half of the turns, and at most %.1f times.",
		p.took[n/2].Seconds()/best, p.took[n-1].Seconds()/best)
}
