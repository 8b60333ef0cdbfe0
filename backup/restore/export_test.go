package restore

// What tests of the pure parts reach.
func WithRecovery(auto []byte, t Target, need map[string]string, main []byte) []byte {
	return withRecovery(auto, raised(need, main, auto), recoverySettings(t, 3, `it's 'a' \ command %f`))
}

// RoomFor says whether a cluster of so many bytes would be let in.
func RoomFor(dir string, bytes int64) error {
	j := &job{cfg: Config{Dir: dir}, survey: survey{bytes: map[string]int64{"": bytes}}}
	return j.checkRoom()
}

func WithoutRecovery(auto []byte) []byte            { return withoutRecovery(auto, nil) }
func ParseSetting(line string) (name, value string) { return parseSetting(line) }
func SettingLine(name, value string) string         { return setting{name, value}.line() }
