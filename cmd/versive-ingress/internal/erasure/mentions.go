package erasure

import (
	"bytes"
	"strconv"
	"unicode/utf16"
)

// nested is how many layers of JSON in a JSON string are looked into.
const nested = 4

// mentions reports whether text, JSON or not, holds id as a word, in whatever
// way JSON can write it. It looks into broken JSON, JSON within strings, and
// UTF-16, so that nothing hides an interview that must be found.
func mentions(text []byte, id string) bool {
	text = bytes.ReplaceAll(text, []byte{0}, nil) // UTF-16, as good as it gets
	for range nested {
		if hasWord(text, []byte(id)) {
			return true
		}
		plain := unescape(text)
		if len(plain) == len(text) {
			return false
		}
		text = plain
	}
	return hasWord(text, []byte(id))
}

// hasWord reports whether word stands in text with no letter or digit at its
// sides: interview_1 is not in interview_12.
func hasWord(text, word []byte) bool {
	for from := 0; ; from++ {
		i := bytes.Index(text[from:], word)
		if i < 0 {
			return false
		}
		from += i
		end := from + len(word)
		if (from == 0 || !isAlphanumeric(text[from-1])) && (end == len(text) || !isAlphanumeric(text[end])) {
			return true
		}
	}
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// unescape undoes the escapes of JSON strings wherever they stand.
func unescape(text []byte) []byte {
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			plain = append(plain, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'u':
			r, n := unescapeRune(text[i+1:])
			if n == 0 {
				plain = append(plain, 'u')
				continue
			}
			plain = append(plain, string(r)...)
			i += n
		case 'b', 'f', 'n', 'r', 't':
			plain = append(plain, ' ')
		default:
			plain = append(plain, c)
		}
	}
	return plain
}

// unescapeRune reads what stands behind a \u, and how long it is.
func unescapeRune(text []byte) (r rune, n int) {
	hex := func(text []byte) (rune, bool) {
		if len(text) < 4 {
			return 0, false
		}
		u, err := strconv.ParseUint(string(text[:4]), 16, 16)
		return rune(u), err == nil
	}
	r, ok := hex(text)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(r) && bytes.HasPrefix(text[4:], []byte(`\u`)) {
		if low, ok := hex(text[6:]); ok {
			return utf16.DecodeRune(r, low), 10
		}
	}
	return r, 4
}
