// Package cache talks to Redis: a single server, a master behind Sentinel, or
// a Redis Cluster, by configuration.
//
// Nothing here is the truth. Redis may be slow, gone, restarted empty: the
// door, [Client], then answers [ErrUnavailable] quickly, reconnects by itself
// and never makes its caller wait for longer than the command timeout. Names
// and lifetimes of all keys are in keys.go; keys of one script share a hash
// tag, so that everything works in a cluster.
//
// [Open] starts two loops that [Client.Close] waits for: one connects, probes
// and reconnects; one (if [Config.OnInvalidate] is set) holds a broadcast
// tracking connection to every node and reports changed session views.
// [Limiter] counts attempts, in Redis or, stricter, in process.
//
// What is cached, and how it is kept right, is decided by the rooms that use it.
package cache
