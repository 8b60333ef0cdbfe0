package config

// DataDirOf is the default data folder of a user.
func DataDirOf(uid int, state, home string) string { return dataDirOf(uid, state, home) }
