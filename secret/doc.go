// Package secret keeps what must not be read: the keyset, what it seals, and
// the [Secret] type that never prints.
//
// It owns the table keysets. A row holds two Tink keysets, one that seals
// (XAES-256-GCM) and one that keys are derived from (HKDF-SHA256), both
// encrypted under a key that HKDF-SHA256 derives from the master key file;
// beside them lies a sealed canary, which proves at [Open] that the master key
// is the right one. No key is ever written in the clear.
//
// The door is [Keyset]: Seal and Unseal bind a value to its place by [AD], MAC
// authenticates under a key of its own per purpose. [Keyset.Rotate] adds a key
// that every process can read before any process writes with it. [Rewrap]
// changes the master key.
//
// The loop is [Keyset.Run], which picks up what others rotated. A nil *Keyset
// is legal: it answers [ErrKeysetMissing], so a server without a master key
// runs with its sealed features off.
package secret
