// Package repo keeps backups and WAL in a storage: sealed, immutable objects
// that anybody with a key can read while the database is dead.
//
// Data lies in packs: many blobs, each compressed and sealed on its own, and a
// sealed footer that says what they are. A manifest names every pack its backup
// needs, so no backup leans on another's manifest; it is the last object of a
// backup to be written. WAL segments are objects of their own.
//
//	repo.json  keys/<id>  epochs/<n>  packs/<xx>/<id>  leases/<name>  sessions/<id>  intents/<id>
//	clusters/<system id>/backups/<backup id>/{manifest,pinned,proof-<time>}
//	clusters/<system id>/wal/<timeline>/<name>-<mac>  clusters/<system id>/pieces/<timeline>/<name>/<offset>-<length>-<mac>
//
// The door is [Open]. Writing goes through a [Session]; its heartbeat and its
// uploads are the only goroutines, and Commit and Abort wait for them. What a
// data folder is made of is package base's business.
package repo
