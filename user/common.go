package user

import (
	_ "embed"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

//go:embed common.txt
var commonText string

// walks are the orders fingers and alphabets know; any three or more in a row
// of one of them, forwards or backwards, count as one choice.
const walks = `abcdefghijklmnopqrstuvwxyzabc 01234567890123456789 qwertyuiopasdfghjklzxcvbnm qwertyuiop[]\ asdfghjkl;' zxcvbnm,./
qwertzuiopasdfghjklyxcvbnm azertyuiopqsdfghjklmwxcvbn йцукенгшщзхъфывапролджэячсмитьбю !@#$%^&*()_+ 1234567890-=
1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/ qazwsxedcrfvtgbyhnujmikolp zaq1xsw2cde3vfr4bgt5nhy6mju7,ki8 zaqxswcdevfrbgtnhymju
!qaz@wsx#edc$rfv%tgb^yhn&ujm 1q2w3e4r5t6y7u8i9o0p q1w2e3r4t5y6u7i8o9p0 1a2s3d4f5g6h7j8k9l a1s2d3f4g5h6j7k8l9 1z2x3c4v5b6n7m
1a2b3c4d5e6f7g8h9i a1b2c3d4e5f6g7h8i9j0 qawsedrftgyhujikolp alskdjfhg qpwoeiruty 1029384756 147258369 963852741 741852963
102030405060708090100 112233445566778899 aabbccddeeffgghh 13579 24680 qweasdzxc rtyfghvbn 0987654321`

// commonList knows what attackers try first.
type commonList struct {
	words   map[string]struct{}
	longest int // runes
	walks   []string
}

func newCommonList() *commonList {
	l := &commonList{words: make(map[string]struct{}, 12_000)}
	for line := range strings.Lines(commonText) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		for w := range strings.FieldsSeq(line) {
			l.words[w] = struct{}{}
			l.longest = max(l.longest, utf8.RuneCountInString(w))
		}
	}
	for w := range strings.FieldsSeq(walks) {
		l.walks = append(l.walks, w, reversed(w))
	}
	return l
}

// weak reports whether password is common, a variant of something common, one
// short piece repeated, or at most two pieces an attacker has ready: common
// words, runs, years and dates.
func (l *commonList) weak(password string) bool {
	s := strings.ToLower(norm.NFKC.String(password))
	if l.listed(s) || l.pieces([]rune(s)) <= 2 {
		return true
	}
	unit := period(s)
	return unit < len(s) && (utf8.RuneCountInString(s[:unit]) < floorPassword || l.weak(s[:unit]))
}

// listed looks s up, as it is and without up to four digits and punctuation around it.
func (l *commonList) listed(s string) bool {
	notLetter := func(r rune) bool { return !unicode.IsLetter(r) }
	for _, t := range [...]string{s, strings.TrimRightFunc(s, notLetter), strings.TrimFunc(s, notLetter)} {
		if len(s)-len(t) <= 4 && l.word(t) {
			return true
		}
	}
	return false
}

// word reports whether s is in the list, letter swaps undone.
func (l *commonList) word(s string) bool {
	if _, ok := l.words[s]; ok {
		return true
	}
	for _, one := range [...]rune{'i', 'l'} {
		if _, ok := l.words[strings.Map(func(r rune) rune { return unswap(r, one) }, s)]; ok {
			return true
		}
	}
	return false
}

// unswap undoes the usual letter swaps; 1 stands for i or l.
func unswap(r, one rune) rune {
	switch r {
	case '0':
		return 'o'
	case '1', '!', '|':
		return one
	case '3':
		return 'e'
	case '4', '@':
		return 'a'
	case '5', '$':
		return 's'
	case '7', '+':
		return 't'
	case '8':
		return 'b'
	case '9':
		return 'g'
	}
	return r
}

// pieces returns the least number of choices s can be made of: a common word,
// a run, a year or a date is one, however often it is repeated in place; a
// separator between two is none; any other character is one. Where more than
// two are needed the number is no more than a bound. Of a long s only the
// beginning counts.
func (l *commonList) pieces(s []rune) int {
	s = s[:min(len(s), 64)]
	least := make([]int, len(s)+1)
	for i := range least {
		least[i] = i
	}
	for i := range s {
		if least[i] > 2 {
			continue
		}
		least[i+1] = min(least[i+1], least[i]+alone(s, i))
		for n := 3; n <= max(l.longest, 40) && i+n <= len(s); n++ {
			if !l.piece(string(s[i : i+n])) {
				continue
			}
			for end := i + n; ; end += n {
				least[end] = min(least[end], least[i]+1)
				if end+n > len(s) || string(s[end:end+n]) != string(s[i:i+n]) {
					break
				}
			}
		}
	}
	return least[len(s)]
}

// alone is what the character at i costs by itself.
func alone(s []rune, i int) int {
	if i > 0 && i < len(s)-1 && strings.ContainsRune(" -_.", s[i]) {
		return 0
	}
	return 1
}

// piece reports whether s is one choice of three or more characters.
func (l *commonList) piece(s string) bool {
	if period(s) == utf8.RuneLen([]rune(s)[0]) || l.word(s) || isYear(s) || isDate(s) {
		return true
	}
	for _, w := range l.walks {
		if strings.Contains(w, s) {
			return true
		}
	}
	return false
}

func isYear(s string) bool {
	return len(s) == 4 && (s[:2] == "19" || s[:2] == "20") && digits(s)
}

// isDate recognises eight digits as year, month, day in the orders people write them.
func isDate(s string) bool {
	if len(s) != 8 || !digits(s) {
		return false
	}
	two := func(i int) int { return int(s[i]-'0')*10 + int(s[i+1]-'0') }
	dayMonth := func(a, b int) bool { return a >= 1 && b >= 1 && min(a, b) <= 12 && max(a, b) <= 31 }
	return (isYear(s[:4]) && dayMonth(two(4), two(6))) || (isYear(s[4:]) && dayMonth(two(0), two(2)))
}

func digits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

// period returns the length in bytes of the shortest unit s repeats, the last
// time perhaps cut off, but at least one and a half times; len(s) if none.
func period(s string) int {
	// fail[i] is the length of the longest proper border of s[:i+1] (Knuth, Morris, Pratt).
	fail := make([]int, len(s))
	for i, k := 1, 0; i < len(s); i++ {
		for k > 0 && s[i] != s[k] {
			k = fail[k-1]
		}
		if s[i] == s[k] {
			k++
		}
		fail[i] = k
	}
	if len(s) == 0 {
		return 0
	}
	p := len(s) - fail[len(s)-1]
	if 2*len(s) < 3*p || p < len(s) && !utf8.RuneStart(s[p]) {
		return len(s)
	}
	return p
}

func reversed(s string) string {
	r := []rune(s)
	for i, j := 0, len(r)-1; i < j; i, j = i+1, j-1 {
		r[i], r[j] = r[j], r[i]
	}
	return string(r)
}
