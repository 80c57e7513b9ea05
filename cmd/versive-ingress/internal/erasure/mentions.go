package erasure

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
)

// nested is how many layers of JSON in a JSON string are searched. A text with more
// may have been made to take long.
const nested = 4

// mentions reports whether text, JSON or not, holds id as a word, in whatever
// way JSON can write it. It looks into broken JSON, JSON within strings, and
// UTF-16, so that nothing hides an interview that must be found.
func mentions(text []byte, id string) bool {
	text = bytes.ReplaceAll(text, []byte{0}, nil) // approximates the conversion of UTF-16
	for range nested {
		if hasWord(text, []byte(id)) {
			return true
		}
		if !bytes.Contains(text, []byte{'\\'}) {
			return false
		}
		text = escapes.ReplaceAllFunc(text, unescape)
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

// escapes matches the escapes of JSON strings, the halves of a surrogate pair together.
var escapes = regexp.MustCompile(`(?s)(\\u[0-9A-Fa-f]{4})+|\\.`)

// unescape returns the text that an escape stands for; if JSON has no such escape,
// the text after the backslash.
func unescape(escape []byte) []byte {
	var plain string
	if json.Unmarshal(slices.Concat([]byte{'"'}, escape, []byte{'"'}), &plain) != nil {
		return escape[1:]
	}
	return []byte(plain)
}
