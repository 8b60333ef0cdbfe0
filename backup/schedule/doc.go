// Package schedule decides when backups, checks and clean-ups are due, and has
// them run once, whichever of many processes looks first.
//
// [ParseCron] reads when, in a zone and with rules for the days on which clocks
// change; [Decide] and [Problems] are pure: what is due, and what should have
// succeeded and has not. What was planned, done and told lies in one small
// object that all processes share and replace by compare and swap (a [Book],
// which also has the clock they go by, so their own may differ).
//
// The loop is [Scheduler.Run]; while something runs, one more goroutine renews
// the claim on it. What a run does, and where alerts go, is passed in.
package schedule
