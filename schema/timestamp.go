package schema

import "time"

// normalizeTimestamp returns s in RFC 3339, in UTC, with "Z" and without
// trailing zeros in the fraction. It accepts RFC 3339 with an upper- or
// lower-case T or a space between date and time, with any number of fraction
// digits (those beyond nanoseconds are cut), and without a zone (read as UTC).
func normalizeTimestamp(s string) (string, bool) {
	const layout = "2006-01-02T15:04:05"
	// time.Parse alone is too lenient: it accepts "1:02:03" and ",5".
	if len(s) < len(layout) || s[13] != ':' || s[16] != ':' {
		return "", false
	}
	switch s[10] {
	case 'T', 't', ' ':
	default:
		return "", false
	}
	t, err := time.Parse(layout, s[:10]+"T"+s[11:len(layout)])
	if err != nil {
		return "", false
	}
	rest := s[len(layout):]

	if rest != "" && rest[0] == '.' {
		digits := 1
		nanos, unit := 0, int(time.Second)
		for ; digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9'; digits++ {
			unit /= 10
			nanos += int(rest[digits]-'0') * unit
		}
		if digits == 1 {
			return "", false
		}
		t = t.Add(time.Duration(nanos))
		rest = rest[digits:]
	}

	switch rest {
	case "", "Z", "z":
	default:
		offset, ok := parseOffset(rest)
		if !ok {
			return "", false
		}
		t = t.Add(-offset)
	}
	if t.Year() < 0 || t.Year() > 9999 { // moved out of range by the offset
		return "", false
	}
	return t.Format(time.RFC3339Nano), true
}

// parseOffset reads "+hh:mm" or "-hh:mm".
func parseOffset(s string) (time.Duration, bool) {
	if len(s) != len("+hh:mm") || s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	t, err := time.Parse("15:04", s[1:])
	if err != nil {
		return 0, false
	}
	offset := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	if s[0] == '-' {
		offset = -offset
	}
	return offset, true
}
