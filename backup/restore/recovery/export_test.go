package recovery

// Forget and the others are what tests of the pure parts reach.
const Forget = forget

func ParseSetting(line string) (name, value string) { return parseSetting(line) }
func SettingLine(name, value string) string         { return setting{name, value}.line() }
