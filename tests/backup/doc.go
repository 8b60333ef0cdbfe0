// Package backup holds tests of backups as processes: several at once, killed
// and stopped at random moments, on one repository and a real PostgreSQL whose
// clients write down what they were told.
//
// The test binary runs itself as rootstream, so the processes under test have
// the race detector whenever the tests do. Random tests print their seed;
// ROOTSTREAM_SEED repeats what is done, not when the system does it.
// ROOTSTREAM_SOAK=30m makes them last.
package backup
