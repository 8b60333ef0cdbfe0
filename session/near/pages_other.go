//go:build !linux

package near

func useLargePages[E any]([]E) {}
