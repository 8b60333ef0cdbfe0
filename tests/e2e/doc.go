// Package e2e holds tests of the whole program: its own processes, in their
// real roles, against PostgreSQL and Redis that are killed, paused, wiped and
// cut off while people sign in and out.
//
// The test binary runs itself as rootstream, so the processes under test have
// the race detector whenever the tests do. Random tests print the seed of
// their faults; ROOTSTREAM_SEED repeats it. ROOTSTREAM_SOAK=30m makes them last.
package e2e
