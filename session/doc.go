// Package session keeps who is signed in: tokens, their expiry, and the caches
// that let every instance validate them in well under a microsecond.
//
// It owns the tables sessions, session_retired_tokens and
// session_invalidations. Only the SHA-256 of a token is kept, and tokens are
// looked up by nothing else. The door is [Manager]: Create, Validate, Refresh,
// Elevate, Revoke and their kin.
//
// The truth is in PostgreSQL. A near cache in the process and authenticated
// views in Redis answer most validations; session_invalidations, which triggers
// fill whoever the writer is, tells every instance what to forget. An instance
// that has not read it for Config.MaxBlind refuses to answer. A view is put
// into a cache only if nothing was invalidated since its source was read.
//
// [Manager.Run] owns four loops: the reading of invalidations (250 ms), the
// writing of activity (1 s), the search for sessions of Phase 24.2, and the
// cleaning up. Passwords and second factors live in user and mfa; auth joins
// them.
package session
