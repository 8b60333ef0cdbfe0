// Package seal keeps the keys of a repository, and seals its objects with them.
//
// A root key, drawn once, opens everything; each key that somebody holds seals a
// copy of it, in keys/. From it come a key for each sealed object, the key under
// which content is named ([Hash]), and the first of the data keys: epochs/<n>
// has the others. repo.json says what the repository is, and is read before
// there is a key.
//
// The door is [Open], which returns a [Safe]. What the objects mean is package
// repo's business.
package seal
