// Package repo keeps backups and WAL in a storage: sealed, immutable objects
// that anybody with a key can read while the database is dead.
//
// A manifest names every pack its backup needs, so no backup leans on another's
// manifest; it is the last object of a backup to be written. Which backups there
// are is the catalog, read by listing. Deletions, of packs and of log, are
// intents first, so that whoever is writing can keep clear of them.
//
//	repo.json  keys/<id>  epochs/<n>                                      seal: keys, sealed objects, names of content
//	packs/<xx>/<id>                                                       pack: data in blobs; files: what a data folder has
//	sessions/<id>  leases/<name>                                          run: who is writing
//	clusters/<system id>/wal/<timeline>/<name>-<mac>                      logs: write-ahead logs
//	clusters/<system id>/pieces/<timeline>/<name>/<offset>-<length>-<mac>
//	clusters/<system id>/backups/<backup id>/{manifest,pinned,proof-<time>}  intents/<id>   here
//
// The door is [Open], also to the rooms below. Writing goes through a [Session];
// its heartbeat and its uploads are the only goroutines, and Commit and Abort
// wait for them. What a data folder is made of is package base's business.
package repo
