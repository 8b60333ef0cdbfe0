package restore

// RoomFor says whether a cluster of so many bytes would be let in.
func RoomFor(dir string, bytes int64) error {
	j := &Job{Config: Config{Dir: dir}, survey: survey{bytes: map[string]int64{"": bytes}}}
	return j.checkRoom()
}
