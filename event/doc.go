// Package event keeps the history of everything: an append-only log in PostgreSQL.
//
// It owns the tables events, event_cursors, event_snapshots, event_horizon,
// event_rewrites, event_log_entities and, but for its column imported_at
// read-only, event_log of Phase 24.2. An entity ([Ref]) has contiguous versions 1, 2, 3…; a shard,
// one of 16, has gapless sequence numbers. Both are given in the last
// statements of what makes the change, so a row is numbered exactly when it is
// about to be committed and nothing else runs under the shard's lock.
//
// There are two ways in: [Append] joins a transaction, [Log.Append] commits
// for many callers at once. [Store] reads: by entity, shard, time or user, and
// the state that events made of an entity. Nothing is updated but by [Erase],
// nothing removed but by [Store.Prune].
//
// Events carry ids and names of fields; personal values and secrets stay in
// rows that can be erased. The loops are [Log.Run], [Importer.Run], which
// copies what writers of Phase 24.2 still add to event_log, and [Consumer.Run],
// which hands every event to a function once.
package event
