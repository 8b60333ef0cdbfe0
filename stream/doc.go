// Package stream keeps live streams: what they are, when they were live, who
// watches.
//
// It owns the tables streams, stream_sessions, recordings and usage_logs. The
// door is [Store]. Rows in PostgreSQL are the truth; every change of them
// appends its event in the same transaction.
//
// Viewers are volatile: entries in Redis that expire unless they are renewed,
// by Redis' clock, so a count falls by itself when viewers vanish and is never
// negative. Peak and total are kept in the same script. Without Redis the
// calls about viewers answer unavailable and everything else goes on.
//
// Stream keys are credentials: shown once, kept as SHA-256.
//
// The one loop is [Store.Run]: it ends viewers that vanished, and writes the
// figures, the events viewer.joined and viewer.left and their usage to
// PostgreSQL in batches. Every instance may run it.
package stream
