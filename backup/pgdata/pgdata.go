// Package pgdata knows what a PostgreSQL data folder is made of.
//
// It says which files a copy needs and in which order ([Walk]), and reads
// those that describe the rest: pg_control ([ParseControl]), backup_label
// ([ParseLabel]), tablespace_map ([ParseTablespaceMap]) and the checksums of
// pages ([CheckPage]). Everything is pure but for the walk, [Open] and
// [ReadControl]; nothing here writes. PostgreSQL 14 to 18, as machines with
// the low byte first write it.
package pgdata

import "rootstream/errs"

// What is wrong with a data folder.
var (
	ErrControl = errs.New(errs.Malformed, "pg_control", "pg_control cannot be read")
	ErrLabel   = errs.New(errs.Malformed, "backup_label", "not a backup label")
	ErrMap     = errs.New(errs.Malformed, "tablespace_map", "not a tablespace map")
	ErrFolder  = errs.New(errs.Invalid, "data_folder", "the data folder cannot be read")
	ErrForeign = errs.New(errs.Forbidden, "data_folder_link", "the data folder has a file that its owner may not read")
)

// PageSize is the unit in which files are compared and stored, whatever the size of a block.
const PageSize = 8192
