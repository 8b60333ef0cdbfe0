// Package backup backs up PostgreSQL clusters and restores them.
//
// [Retain] and [WALNeeded] decide, purely, what is kept.
package backup
