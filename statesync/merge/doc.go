// Package merge decides what two sides that changed the same thing agree on.
//
// It is pure: no clock but the one it is given, no network, no goroutine. A
// [Join] takes two values and returns one, and obeys four laws, so that sides
// which heard the same values, in any order and any number of times, hold the
// same: it is commutative, associative and idempotent, and what was joined in
// is never lost again (monotone). Package mergetest checks the laws.
//
// [Stamp] is a total order of changes, made of a hybrid logical [Clock] and the
// node's id; [VersionVector] tells whether one side knew of the other's.
// [Docs] is a join of JSON documents, for what several instances contribute to.
package merge
