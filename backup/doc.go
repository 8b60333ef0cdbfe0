// Package backup backs up PostgreSQL clusters, restores them and proves that it can.
//
// The door is [Open]: a [Manager] takes, lists, checks and removes backups of one
// repository, its [Recovery] brings them back. [Retain] decides, purely, what is
// kept; [Manager.Scheduler] runs what package schedule says is due; [Alerts]
// tells people. The repository is the truth: the table
// backup_history, which this package owns, is a view of it, and nothing fails
// when the database is down.
//
// Loops: [Watch.Run] for the gauges; while a backup runs that nobody archives
// for, a receiver; while a server of another user recovers, a relay of its log.
// How backups are taken, kept and put back is in the rooms below.
package backup
