// Package terminal is how commands talk to a person: progress, a prompt, tables,
// ages, sizes and plurals.
package terminal

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/term"
)

// IsTerminal reports whether w, a writer or a reader, is a terminal.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// NewTable returns a writer that aligns columns, which are separated by tabs,
// when it is flushed.
func NewTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// Plural returns a number with the form of the noun that belongs to it.
func Plural[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Age returns a duration in its two largest units. A negative one is 0s.
func Age(d time.Duration) string {
	d = max(0, d.Truncate(time.Second))
	switch s := int(d.Seconds()); {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	default:
		return d.String()
	}
}

// Bytes returns a number of bytes in the largest suitable unit, such as "1.5 MiB".
func Bytes[N int | int64 | uint64](n N) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/(1<<10), "KiB"
	for _, larger := range []string{"MiB", "GiB"} {
		if value < 1<<10 {
			break
		}
		value, unit = value/(1<<10), larger
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// Printable returns text in which control characters, except line feeds and tabs, and
// bytes that are not UTF-8 are escaped, such as \x1b.
func Printable(text []byte) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 || unicode.IsControl(r) && r != '\n' && r != '\t' {
			for _, c := range text[:n] {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		} else {
			b.Write(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// Line returns text as [Printable] does, with line feeds and tabs escaped as well. Ids that
// other programs have stored may contain any characters.
func Line(text string) string {
	return strings.NewReplacer("\n", `\x0a`, "\t", `\x09`).Replace(Printable([]byte(text)))
}

// WriteJSON writes each of some values to w as a line of JSON. Bytes that are not UTF-8,
// which other programs may have stored, become U+FFFD.
func WriteJSON[T any](w io.Writer, values ...T) error {
	for _, v := range values {
		line, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			return err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// URL returns a URL without the parts that may be secret, its user and its query. It
// returns "" if address is not a URL.
func URL(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
