package codec

import "encoding/binary"

// Stepped is added to a codec when it was given the steps of the data: each word of 4 bytes less the one 16 bytes before.
// The entries of an index on numbers or times lie 16 bytes apart, and each differs from its neighbour as
// that does from its own. What a general codec makes a sixth of, it makes a hundredth of with this.
const Stepped = 1 << 4

const apart = 16

// steps appends the steps of data to into.
func steps(into, data []byte) []byte {
	start := len(into)
	into = append(into, data...)
	le, out := binary.LittleEndian, into[start:]
	for i := apart; i+4 <= len(data) && i+4 <= len(out); i += 4 {
		le.PutUint32(out[i:], le.Uint32(data[i:])-le.Uint32(data[i-apart:]))
	}
	return into
}

// walk undoes steps, in place.
func walk(data []byte) {
	le := binary.LittleEndian
	var a, b, c, d uint32
	for len(data) >= apart {
		step := data[:apart:apart]
		a, b, c, d = a+le.Uint32(step), b+le.Uint32(step[4:]), c+le.Uint32(step[8:]), d+le.Uint32(step[12:])
		le.PutUint32(step, a)
		le.PutUint32(step[4:], b)
		le.PutUint32(step[8:], c)
		le.PutUint32(step[12:], d)
		data = data[apart:]
	}
	for i, last := range [...]uint32{a, b, c} {
		if at := 4 * i; at+4 <= len(data) {
			le.PutUint32(data[at:], le.Uint32(data[at:])+last)
		}
	}
}

// stepwise reports whether a quarter of what samples are made of are steps that are all alike. Words that are themselves
// alike do not count: a codec sees those without help.
func stepwise(data []byte) bool {
	if len(data) < 2*sample || len(data) > Window {
		return false
	}
	alike := 0
	for i := range 3 {
		at := (len(data) - sample) / 2 * i
		alike += alikeSteps(data[at : at+sample])
	}
	return alike > 3*sample/4/4
}

func alikeSteps(data []byte) (n int) {
	le := binary.LittleEndian
	for i := 2 * apart; i+4 <= len(data); i += 4 {
		now, before, first := le.Uint32(data[i:]), le.Uint32(data[i-apart:]), le.Uint32(data[i-2*apart:])
		if now != before && now-before == before-first {
			n++
		}
	}
	return n
}
