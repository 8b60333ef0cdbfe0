// Package mfa proves that a person holds a second factor: TOTP (RFC 6238) or a
// backup code.
//
// It owns the tables user_mfa, mfa_attempts and mfa_guards. The door is
// [Manager]: enrol, confirm, verify, remove. A try is reserved and committed
// before its code is compared, all methods share one budget an account, and
// what a right code grants commits together with the code's consumption, or
// not at all. Time is the database's, so every instance agrees on the step.
//
// TOTP secrets are sealed by package secret and bound to their row and owner.
// Backup codes are kept as Argon2id hashes under a key of the keyset.
//
// The one loop is [Manager.Run]: it drops stale enrolments and old attempts,
// and seals again what an old key sealed. Challenges, assurance levels and the
// right to remove a factor are decided in package auth.
package mfa
