package restore

import "rootstream/internal/proc"

// OwnerOf returns whom the files of a restore will belong to, and as whom its server runs.
func OwnerOf(cfg Config) (proc.Account, error) { return ownerOf(cfg) }
