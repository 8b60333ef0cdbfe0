package stream

import "rootstream/errs"

// What tests of pure parts look at.

func NewKey() (key string, hash [32]byte) {
	k, h := newKey()
	return k.Reveal(), h
}

func KeyHash(key string) ([32]byte, bool) { return keyHash(key) }

func CheckPath(p string) error {
	var f errs.Fields
	checkPath(&f, p)
	return f.Err()
}

func ReadVisit(line string) (seconds int64, ok bool) {
	v, ok := readVisit(line)
	return v.seconds(), ok
}

func ReadPlace(cursor string) error { _, err := readPlace(cursor); return err }
