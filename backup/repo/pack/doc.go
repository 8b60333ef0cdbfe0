// Package pack keeps data in packs: many blobs, each compressed and sealed on
// its own, and a sealed footer that says what they are, so that a pack tells
// what it holds when nothing else is left.
//
// The door is [NewStore]. A [Writer] stores what its [Lane]s fill; its uploads
// are the only goroutines, and Drain waits for them. A [Blob] says where data is
// and all that is needed to read and authenticate it. Which packs are needed,
// and by whom, is package repo's business.
package pack
