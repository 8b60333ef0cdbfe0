// Package harness is what tests of whole processes have in common: a test
// binary that runs itself as the program under test ([Start]), random faults
// that a seed repeats ([Seed], [Schedule]), and a length that can be turned up
// ([Soak]).
package harness
