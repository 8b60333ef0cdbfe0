package merge_test

import (
	"encoding/json"
	"fmt"

	"rootstream/statesync/merge"
)

// Viewers are counted where they are connected; the sum is right however often each instance says its own.
func ExampleSum() {
	say := func(node byte, at merge.HLC, viewers string) merge.Contribution {
		return merge.Contribution{
			Stamp: merge.Stamp{At: at, Node: [16]byte{node}}, Doc: map[string]any{"viewers": json.Number(viewers)},
		}
	}
	fmt.Println(merge.Sum().Merge([]merge.Contribution{say(1, 1, "10"), say(2, 1, "5"), say(1, 2, "12"), say(1, 1, "10")}))
	// Output: map[viewers:17]
}

// A stream that has ended is not live again because someone heard of its start late.
func ExampleLattice() {
	status := merge.Lattice("offline", "live", "ended")
	fmt.Println(status.Join("ended", "live"), status.Join("offline", "live"))
	// Output: ended live
}
