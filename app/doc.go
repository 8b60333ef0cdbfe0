// Package app puts the rooms together.
//
// [Open] builds every part from a configuration and [Parts.Run] runs their loops
// in one group; the methods of [Parts] are what operators do. [Serve], [Up] and
// [Node] are the processes. What can be set is app/config, backups are app/backups,
// what looks at a system from outside is app/doctor and app/demo.
package app
