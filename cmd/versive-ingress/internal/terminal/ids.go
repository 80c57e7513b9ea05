package terminal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ReadIDs reads a list of interview ids, one a line, of at most maxLen bytes each. It
// skips blank lines, a byte order mark and carriage returns. It ends with an error at the
// first line that cannot be an id, such as that of a CSV file.
func ReadIDs(r io.Reader, maxLen int) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		lines, number := bufio.NewScanner(r), 0
		refuse := func() {
			yield("", fmt.Errorf("line %d: want one interview id a line, in UTF-8, without commas, semicolons, quotes and spaces; of a CSV file, cut -d, -f1 prints the first column", number))
		}
		for lines.Scan() {
			number++
			id := lines.Text()
			if number == 1 {
				id = strings.TrimPrefix(id, "\ufeff")
			}
			switch id = strings.TrimSpace(id); {
			case id == "":
			case len(id) > maxLen || !utf8.ValidString(id) || strings.ContainsFunc(id, notInID):
				refuse()
				return
			case !yield(id, nil):
				return
			}
		}
		number++
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			refuse()
		case err != nil:
			yield("", fmt.Errorf("line %d: %w", number, err))
		}
	}
}

// notInID reports whether a character separates the fields of a table or cannot be printed.
// No id of the vendor has one: they are UUIDs.
func notInID(r rune) bool {
	return strings.ContainsRune(",;\"", r) || unicode.IsSpace(r) || !unicode.IsPrint(r)
}
