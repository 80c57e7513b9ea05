package erasure

import (
	"strings"
	"testing"
	"unicode/utf16"
)

func TestMentions(t *testing.T) {
	t.Parallel()
	const id = "3fa85f64-57/ä"
	wide := func(text string) string {
		var b strings.Builder
		for _, u := range utf16.Encode([]rune(text)) {
			b.WriteByte(byte(u))
			b.WriteByte(byte(u >> 8))
		}
		return b.String()
	}
	for _, test := range []struct {
		id, text string
		want     bool
	}{
		{id, `{"interview":{"id":"3fa85f64-57/ä"}}`, true},
		{id, `{"interview":{"id":"3fa85f64\u002d57\/\u00e4"}}`, true},
		{id, `{"interview":{"id":"3fa85f64\u002D57\/\u00E4"`, true}, // broken
		{id, `{"raw":"{\"id\":\"3fa85f64\\u002d57\\\/ä\"}"}`, true}, // JSON in JSON
		{id, `id=3fa85f64-57/ä&x=1`, true},
		{id, `{"id":"3fa85f64-57"}`, false},
		{"a\U0001F600b", `"a\ud83d\ude00b"`, true},
		{"int-1", wide(`{"id":"int-1"}`), true},
		{"int-1", `"My Study\/s\/int-1"`, true},
		{"int-1", `"line\nint-1"`, true},
		{"int-1", `"int\-1"`, true}, // no escape of JSON
		{"int-1", `"int-12 print-1"`, false},
		{"int-1", `"int-12 int-1"`, true},
		{"aa", `aaa`, false},
		{"-int-1", `"a -int-1"`, true},
		{"-int-1", `"--int-1,"`, true},
		{"-int-1", `"a-int-1"`, false},
		{"ä/", `"/ä/ä"`, true},
		{"--", `a-- --`, true},
		{"--", `a--`, false},
		{"int-1", `\`, false},
		{"int-1", `\u`, false},
		{"int-1", `\u002`, false},
		{"int-1", `\ud83d\u`, false},
		{"int-1", ``, false},
	} {
		// Among others, it is found like alone.
		w := words{}
		for target, id := range []string{"x", "int", "3fa85f64", "-", test.id, "int-11"} {
			w.add(id, target)
		}
		got := false
		for target := range w.mentionedIn([]byte(test.text)) {
			got = got || target == 4
		}
		if got != test.want {
			t.Errorf("%q in %q: got %v", test.id, test.text, got)
		}
	}
}
