package auth

// What tests of pure parts look at.

func ReadLogin(s string) (string, error) { return readLogin(s) }

func ChallengeHash(id string) bool { _, ok := challengeHash(id); return ok }

func NewChallengeID() string { return newChallengeID() }
