package terminal

import (
	"strings"
	"testing"
)

// A list is one of ids, one a line, and nothing else is taken for an id.
func TestReadIDs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                 "",
		"\n \r\n":                          "",
		"\ufeffb\r\n\n a \nb":              "b a b",
		"id,title\n":                       "line 1: want one interview id a line",
		"id;title\n":                       "line 1: want",
		"id\ttitle\n":                      "line 1: want",
		"a\n\"b\"":                         "a line 2: want",
		"a\nb c":                           "a line 2: want",
		"\xff\xfea\x00\n\x00":              "line 1: want", // UTF-16
		"a\rb":                             "line 1: want",
		strings.Repeat("x", 300):           "line 1: want",
		strings.Repeat("x", 256):           strings.Repeat("x", 256),
		"a\n" + strings.Repeat("x", 1<<20): "a line 2: want",
	} {
		var got []string
		for id, err := range ReadIDs(strings.NewReader(text), 256) {
			if err != nil {
				id = err.Error()
			}
			got = append(got, id)
		}
		if line := strings.Join(got, " "); line != want && (!strings.Contains(want, ": ") || !strings.HasPrefix(line, want)) {
			t.Errorf("%.20q: got %q, want %q", text, line, want)
		}
	}
}
