package schema

import (
	"strings"
	"time"
)

// normalizeTimestamp returns s in RFC 3339, in UTC, with "Z" and without
// trailing zeros in the fraction. It accepts RFC 3339 with an upper- or
// lower-case T or a space between date and time, with any number of fraction
// digits (those beyond nanoseconds are cut), and without a zone (read as UTC).
func normalizeTimestamp(s string) (string, bool) {
	const layout = "2006-01-02T15:04:05"
	// time.Parse alone is too lenient: it accepts "1:02:03", ",5", "+24:00" and
	// "+00:60".
	if len(s) < len(layout) || s[13] != ':' || s[16] != ':' || strings.HasSuffix(s, ":60") || strings.Contains(s, ",") {
		return "", false
	}
	if s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	s = strings.ToUpper(s)
	if !strings.ContainsAny(s[len(layout):], "Z+-") {
		s += "Z"
	}
	t, err := time.Parse(time.RFC3339, s)
	_, offset := t.Zone()
	t = t.UTC()
	if err != nil || max(offset, -offset) >= 24*60*60 || t.Year() < 0 || t.Year() > 9999 {
		return "", false
	}
	return t.Format(time.RFC3339Nano), true
}
