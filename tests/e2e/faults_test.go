package e2e_test

import (
	"math/rand/v2"
	"time"

	"rootstream/cache/cachetest"
	"rootstream/postgres/postgrestest"
	"rootstream/tests/harness"
)

// node is an instance behind lines of its own to PostgreSQL and Redis.
type node struct {
	*instance
	harness.Lines
}

// breaker breaks and mends: the servers one fault at a time, and at the same time the lines one fault at a time.
type breaker struct {
	pg    *postgrestest.Instance
	redis *cachetest.Redis
	nodes []*node
}

func (b *breaker) schedule(r *rand.Rand, length time.Duration) []harness.Step {
	return harness.Schedule(r, length, harness.Servers(b.pg, b.redis), func(r *rand.Rand) harness.Fault {
		n := b.nodes[r.IntN(len(b.nodes))]
		return n.Fault(r, n.Name)
	})
}
