package schema_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// This file implements the rules of the canonical form a second time, with
// another JSON library and without regard to speed, for the fuzzer to compare.

// A rule reports whether out is the canonical form of in. It is nil for a member
// that is absent.
type rule func(t *testing.T, in, out json.RawMessage) bool

type rules []struct {
	name string
	rule rule
}

var documentRules = rules{
	{"event_type", same},
	{"interview", interviewRules.object},
	{"study", studyRules.object},
}

var interviewRules = rules{
	{"id", same},
	{"title", orDefault(`""`)},
	{"status", orDefault(`""`)},
	{"is_mock", orDefault(`false`)},
	{"is_archived", orDefault(`false`)},
	{"created_at", timestamp},
	{"started_at", timestamp},
	{"ended_at", timestamp},
	{"type", orDefault(`""`)},
	{"metadata", orDefault(`{}`)},
	{"active_time", orDefault(`null`)},
	{"recording_url", orDefault(`null`)},
	{"transcript", orDefault(`""`)},
	{"parsed_conversation_json", turns},
	{"vid", orDefault(`null`)},
}

var turnRules = rules{
	{"role", role},
	{"content", orDefault(`""`)},
}

var studyRules = rules{
	{"id", same},
	{"title", orDefault(`""`)},
	{"metadata", orDefault(`{}`)},
	{"type", orDefault(`""`)},
	{"mode", orDefault(`""`)},
	{"created_at", timestamp},
}

// object checks the known members by their rules, that the unknown members have
// kept their bytes, and the order of all members.
func (rs rules) object(t *testing.T, in, out json.RawMessage) bool {
	t.Helper()
	inNames, inValues := members(t, in)
	outNames, outValues := members(t, out)

	var want []string
	for _, r := range rs {
		want = append(want, r.name)
		if !r.rule(t, inValues[r.name], outValues[r.name]) {
			t.Errorf("%s: %s became %s", r.name, inValues[r.name], outValues[r.name])
		}
	}
	known := len(want)
	for _, name := range inNames {
		if slices.Contains(want[:known], name) {
			continue
		}
		want = append(want, name)
		if !same(t, inValues[name], outValues[name]) {
			t.Errorf("%q: %s became %s", name, inValues[name], outValues[name])
		}
	}
	if !slices.Equal(want, outNames) {
		t.Errorf("members are %q, want %q", outNames, want)
	}
	return true // problems were reported where they are
}

func same(_ *testing.T, in, out json.RawMessage) bool {
	return in != nil && bytes.Equal(in, out)
}

// orDefault is the rule of a member that may be absent. An empty text counts as
// absent if the default is null; if it is "", both have the same result.
func orDefault(value string) rule {
	return func(t *testing.T, in, out json.RawMessage) bool {
		if isAbsent(in) {
			return string(out) == value
		}
		return same(t, in, out)
	}
}

func role(t *testing.T, in, out json.RawMessage) bool {
	if isAbsent(in) {
		return string(out) == `""`
	}
	return strings.ToLower(text(t, in)) == text(t, out)
}

func timestamp(t *testing.T, in, out json.RawMessage) bool {
	if isAbsent(in) {
		return string(out) == "null"
	}
	sent := string(in)
	if in[0] == '"' {
		sent = text(t, in)
	}
	at, ok := moment(sent)
	return ok && text(t, out) == at.UTC().Format(time.RFC3339Nano)
}

var iso = regexp.MustCompile(`(?i)^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?(?:[.,](\d+))?(?: ?(Z)|( UTC)| ?([+-]\d\d):?(\d\d)?)?)?$`)

// moment returns the time that a sender means.
func moment(sent string) (time.Time, bool) {
	if at, err := http.ParseTime(sent); err == nil {
		return at, true
	}
	if unix, err := strconv.ParseFloat(sent, 64); err == nil {
		seconds, fraction, _ := strings.Cut(sent, ".")
		if unix >= 1e11 {
			seconds, fraction = seconds[:len(seconds)-3], seconds[len(seconds)-3:]+fraction
		}
		whole, _ := strconv.ParseInt(seconds, 10, 64)
		return time.Unix(whole, nanoseconds(fraction)), true
	}
	m := iso.FindStringSubmatch(sent)
	if m == nil {
		return time.Time{}, false
	}
	leap := m[3] == ":60"
	if leap {
		m[3] = ":59"
	}
	zone := cmp.Or(m[7], "+00") + cmp.Or(m[8], "00")
	at, err := time.Parse("2006-01-02 15:04:05 -0700", m[1]+" "+cmp.Or(m[2], "00:00")+cmp.Or(m[3], ":00")+" "+zone)
	if leap {
		at = at.Add(time.Second)
	}
	return at.Add(time.Duration(nanoseconds(m[4]))), err == nil
}

func nanoseconds(fraction string) int64 {
	n, _ := strconv.ParseInt((fraction + strings.Repeat("0", 9))[:9], 10, 64)
	return n
}

func turns(t *testing.T, in, out json.RawMessage) bool {
	if isAbsent(in) || in[0] == '{' {
		return string(out) == "[]"
	}
	var before, after []json.RawMessage
	unmarshal(t, in, &before)
	unmarshal(t, out, &after)
	if len(before) != len(after) {
		return false
	}
	for i := range before {
		turnRules.object(t, before[i], after[i])
	}
	return true
}

func isAbsent(value json.RawMessage) bool {
	return value == nil || string(value) == "null" || string(value) == `""`
}

// members returns an object's names in their order, and the bytes of its
// values.
func members(t *testing.T, object json.RawMessage) ([]string, map[string]json.RawMessage) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(object))
	if brace, err := dec.Token(); brace != json.Delim('{') {
		t.Fatalf("%s is not an object: %v", object, err)
	}
	var names []string
	values := map[string]json.RawMessage{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
		names = append(names, name.(string))
		values[name.(string)] = value
	}
	return names, values
}

func text(t *testing.T, value json.RawMessage) string {
	t.Helper()
	var s string
	unmarshal(t, value, &s)
	return s
}

func unmarshal(t *testing.T, data json.RawMessage, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
}
