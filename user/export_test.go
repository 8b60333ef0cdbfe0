package user

// Occupy takes one turn of h as a hash would; the returned function gives it back.
func (h *Hasher) Occupy() func() {
	h.turns <- struct{}{}
	return func() { <-h.turns }
}

// Reformat parses an Argon2 hash and writes it again.
func Reformat(encoded string) (string, error) {
	p, err := parsePHC(encoded)
	if err != nil {
		return "", err
	}
	return formatPHC(p), nil
}

// CommonWords returns the embedded list.
func (r *Rules) CommonWords() map[string]struct{} { return r.common.words }
