package restore

// What tests of the pure parts reach.
func WithRecovery(auto []byte, t Target, need map[string]string, main []byte) []byte {
	return withRecovery(auto, raised(need, main, auto), recoverySettings(t, 3, `it's 'a' \ command %f`))
}

func WithoutRecovery(auto []byte) []byte            { return withoutRecovery(auto, nil) }
func ParseSetting(line string) (name, value string) { return parseSetting(line) }
func SettingLine(name, value string) string         { return setting{name, value}.line() }
