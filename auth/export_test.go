package auth

// What tests of pure parts look at.

func LoginKey(s string) (string, error) { return loginKey(s) }

func ChallengeHash(id string) bool { _, ok := challengeHash(id); return ok }

func NewChallengeID() string { return newChallengeID() }
