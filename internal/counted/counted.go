// Package counted writes a number together with what it counts.
package counted

import "fmt"

// Of is "1 key" or "2 keys": one is the word for a single thing, many the one
// for any other number where that is not one with an s.
func Of[N ~int | ~int64 | ~uint64 | ~uint32](n N, one string, many ...string) string {
	word := one + "s"
	switch {
	case n == 1:
		word = one
	case len(many) > 0:
		word = many[0]
	}
	return fmt.Sprintf("%d %s", n, word)
}
