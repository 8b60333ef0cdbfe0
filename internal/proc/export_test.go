package proc

// ParseStat reports the name and start time of a line of /proc/PID/stat.
func ParseStat(raw []byte) (name string, start uint64, err error) {
	st, err := parseStat(raw)
	return st.name, st.start, err
}
