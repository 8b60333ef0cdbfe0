// Package ledger holds the test of what state sync promises: whatever breaks,
// every acknowledged update is in the log exactly once, in order, and every
// instance and everybody who watches comes to the same state.
//
// The test binary runs itself as the instances, which lose Redis and
// PostgreSQL, are paused and killed while writers write down in a ledger what
// they were told. ROOTSTREAM_SEED repeats the faults of a run;
// ROOTSTREAM_SOAK=30m makes it last.
package ledger
