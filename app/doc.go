// Package app puts the rooms together.
//
// [Load] reads the configuration, [Resolve] adds what a data folder of
// `rootstream up` knows, [Open] builds every part from it and [Parts.Run] runs
// their loops in one group. [Serve], [Up] and [Node] are the processes;
// [Doctor] and [Demo] look at them from outside. Only cli imports this package.
package app
