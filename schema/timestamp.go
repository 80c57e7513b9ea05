package schema

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// normalizeTimestamp returns s in RFC 3339, in UTC, with "Z" and without
// trailing zeros in the fraction. It accepts what parseISO, parseUnix and
// parseHTTP accept. Digits beyond nanoseconds are cut.
func normalizeTimestamp(s string) (string, bool) {
	t, ok := parseISO(s)
	if !ok {
		t, ok = parseUnix(s)
	}
	if !ok {
		t, ok = parseHTTP(s)
	}
	t = t.UTC()
	if !ok || t.Year() < 0 || t.Year() > 9999 {
		return "", false
	}
	return t.Format(time.RFC3339Nano), true
}

// parseISO accepts RFC 3339, and where common libraries deviate from it: a T or Z
// in lower case; a space for the T, and before the offset; a comma before the
// fraction; no seconds, or no time of day; an offset without the colon or the
// minutes; "UTC" after a space; and no zone, which is read as UTC. A leap second is
// the first second of the next day.
func parseISO(s string) (time.Time, bool) {
	if t, err := time.Parse(time.RFC3339, s); err == nil && s[len(s)-1] == 'Z' && s[13] == ':' {
		return t, true // the usual form
	}
	date, clock, zone := s, "00:00:00", "Z"
	if n := len("2006-01-02"); len(s) > n && strings.IndexByte("Tt ", s[n]) >= 0 {
		date, clock = s[:n], s[n+1:]
	}
	if i := strings.IndexAny(clock, "Zz+- "); i >= 0 {
		clock, zone = clock[:i], strings.ToUpper(strings.TrimPrefix(clock[i:], " "))
		switch {
		case zone == "UTC":
			zone = "Z"
		case len(zone) == len("+01"):
			zone += ":00"
		case len(zone) == len("+0100"):
			zone = zone[:3] + ":" + zone[3:]
		}
	}
	if len(clock) == len("15:04") {
		clock += ":00"
	}
	// time.Parse alone is too lenient: it accepts "1:02:03", "+24:00" and "+00:60".
	if len(clock) < len("15:04:05") || clock[2] != ':' || clock[5] != ':' || strings.HasSuffix(zone, ":60") {
		return time.Time{}, false
	}
	isLeap := clock[6:8] == "60"
	if isLeap {
		clock = clock[:6] + "59" + clock[8:]
	}
	t, err := time.Parse(time.RFC3339, date+"T"+clock+zone)
	_, offset := t.Zone()
	if err != nil || max(offset, -offset) >= 24*60*60 {
		return time.Time{}, false
	}
	if isLeap {
		t = t.UTC().Add(time.Second)
		hour, minute, second := t.Clock()
		return t, hour+minute+second == 0
	}
	return t, true
}

// unixTime matches a positive number of 9 or 10 digits, of 3 more for
// milliseconds, and of a fraction.
var unixTime = regexp.MustCompile(`^([1-9]\d{8,9})(\d{3})?(?:\.(\d+))?$`)

// parseUnix accepts Unix seconds and milliseconds of the years 2000 to 2099. There,
// neither can be mistaken for the other, for microseconds, or for a date such as
// 20240229 or 20240229123456.
func parseUnix(s string) (time.Time, bool) {
	m := unixTime.FindStringSubmatch(s)
	if m == nil {
		return time.Time{}, false
	}
	const year2000, year2100 = 946684800, 4102444800
	seconds, _ := strconv.ParseInt(m[1], 10, 64)
	nanoseconds, _ := strconv.ParseInt((m[2] + m[3] + "000000000")[:9], 10, 64)
	return time.Unix(seconds, nanoseconds), year2000 <= seconds && seconds < year2100
}

// parseHTTP accepts the date of HTTP headers (RFC 9110).
func parseHTTP(s string) (time.Time, bool) {
	const layout = "Mon, 02 Jan 2006 15:04:05 GMT"
	t, err := time.Parse(layout, s)
	return t, err == nil && t.Format(layout) == s // time.Parse does not compare the day of the week
}
