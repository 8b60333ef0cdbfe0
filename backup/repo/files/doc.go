// Package files keeps what a backup has of a data folder: a stream of entries,
// one a file, that say where its pages are. The stream is data like any other,
// and lies in packs; it is written and read an entry at a time, so that memory
// stays small however large the cluster is.
//
// The doors are [NewWriter] and [Read]. The order of entries is package
// pgdata's, what is done with them package base's and package restore's business.
package files
