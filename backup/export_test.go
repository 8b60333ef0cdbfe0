package backup

// Pushes says what is thought of an archive_command.
func Pushes(command, repository string) bool { return pushes(command, repository) }
