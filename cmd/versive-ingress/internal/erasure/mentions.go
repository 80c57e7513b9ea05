package erasure

import (
	"bytes"
	"encoding/json"
	"iter"
	"regexp"
	"slices"
)

// nested is how many layers of JSON in a JSON string are searched. A text with more
// may have been made to take long.
const nested = 4

// words are ids to find in texts, by their first run of letters and digits, which is a
// whole run of a text wherever the id stands as a word. What has no letter or digit is at
// "", and is searched for by itself.
type words map[string][]word

type word struct {
	id     []byte
	before int // bytes before its first run
	target int
}

// add adds the id of a target.
func (w words) add(id string, target int) {
	key, before := "", 0
	for at, run := range runs([]byte(id)) {
		key, before = string(run), at
		break
	}
	w[key] = append(w[key], word{[]byte(id), before, target})
}

// mentionedIn yields the targets whose id text, JSON or not, holds as a word, in whatever way
// JSON can write it. It looks into broken JSON, JSON within strings, and UTF-16, so that
// nothing hides an interview that must be found. It may yield a target several times.
func (w words) mentionedIn(text []byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		text := bytes.ReplaceAll(text, []byte{0}, nil) // approximates the conversion of UTF-16
		for layer := 0; w.search(text, yield) && layer < nested && bytes.Contains(text, []byte{'\\'}); layer++ {
			text = escapes.ReplaceAllFunc(text, unescape)
		}
	}
}

// search yields the targets whose id stands in text with no letter or digit at its sides:
// interview_1 is not in interview_12. It reports whether to continue.
func (w words) search(text []byte, yield func(int) bool) bool {
	for at, run := range runs(text) {
		for _, word := range w[string(run)] {
			if from := at - word.before; from >= 0 && bytes.HasPrefix(text[from:], word.id) && isWord(text, from, from+len(word.id)) && !yield(word.target) {
				return false
			}
		}
	}
	for _, word := range w[""] {
		for from := 0; ; from++ {
			i := bytes.Index(text[from:], word.id)
			if i < 0 {
				break
			}
			from += i
			if isWord(text, from, from+len(word.id)) && !yield(word.target) {
				return false
			}
		}
	}
	return true
}

// isWord reports whether no letter or digit is at the sides of a part of text.
func isWord(text []byte, from, to int) bool {
	return (from == 0 || !isAlphanumeric(text[from-1])) && (to == len(text) || !isAlphanumeric(text[to]))
}

// runs yields the runs of letters and digits in text, with their positions.
func runs(text []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for at := 0; at < len(text); at++ {
			end := at
			for end < len(text) && isAlphanumeric(text[end]) {
				end++
			}
			if end > at && !yield(at, text[at:end]) {
				return
			}
			at = end
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
