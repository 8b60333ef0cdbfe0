package guard

// What tests of bounds look at.
const MaxTallies, MaxWindows = maxTallies, maxWindows

// Keys is how many tallies are kept in process.
func (b *Backoff) Keys() int { return len(b.local) }

// TurnKeys is at how many keys somebody waits.
func TurnKeys(t *Turns) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.keys)
}
