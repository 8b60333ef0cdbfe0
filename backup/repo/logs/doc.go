// Package logs keeps the write-ahead logs of clusters in a repository: segments,
// histories and other files under the names that PostgreSQL gives them, and
// pieces of segments that are still being written. It knows which clusters the
// repository has something of, and refuses those that it does not belong to.
//
// The door is [NewStore]. It is as good to read with the database dead as
// everything else. [Floors] says, purely, which of a log backups need; when
// something is fetched or dropped is the business of package archive and package repo.
package logs
