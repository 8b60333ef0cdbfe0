// Package statesync keeps the state of entities the same on all instances.
//
// A durable entity's state is the fold of its events, which are the truth:
// [Manager.Update] appends one, and every instance that has the entity in
// memory applies it within milliseconds (package feed). What is in memory is
// only ever older than the truth by what is on its way, never different; who
// cannot accept that says so: see [Local], [AtLeast] and [Latest].
//
// A volatile entity's state is what the instances that live contribute to it,
// joined ([merge.Docs]); it is in no database, and what an instance that is
// gone contributed goes with it.
//
// Who loses the race for a version either reads again, or has the type's
// [Rebase] decide; then both values are in the conflict log.
//
// [Manager.Run] is the only owner of goroutines: those of the feed, and one
// that ticks for volatile state and snapshots. Subscribers are called on
// their own goroutine. It owns the tables sync_conflicts and sync_snapshots.
package statesync
