// Package feed brings every event of the log to every instance, in the order
// of its shard, without a gap and once.
//
// PostgreSQL has numbered the events, so order is never in question; what is
// left is speed. The instance that commits applies its events itself and adds
// them to one Redis stream that all others follow. The numbers make telling
// them idempotent: who has a number ignores it. Redis may lose, repeat, reorder
// or forge frames, or be gone: whoever misses a number reads it from PostgreSQL.
//
// [Feed.Run] is the only owner of goroutines: one applies what was committed
// here, one publishes it, one reads Redis, one says every 500 ms that this
// instance lives, one (the sweeper) compares with PostgreSQL every 50 ms, or
// 20 ms while Redis is not to be relied on. It owns the table sync_epoch: when PostgreSQL turns
// out to have lost what was already seen, a new epoch begins, everybody starts
// from what PostgreSQL has now, and what was lost is reported, see [Config].
package feed
