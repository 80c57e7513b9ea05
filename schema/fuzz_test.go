package schema_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"versive-ingress/schema"
)

// FuzzNormalize: every body becomes an event that follows all rules, or an
// error that reveals nothing of the body.
func FuzzNormalize(f *testing.F) {
	for _, path := range goldenInputs(f) {
		f.Add(readFile(f, path))
	}
	validate := jsonSchema(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		sent := bytes.Clone(input)
		message, err := schema.Normalize(svixID, input)
		if !bytes.Equal(sent, input) {
			t.Fatal("the body was written to")
		}
		repeated, errRepeated := schema.Normalize(svixID, input)
		if !bytes.Equal(message.Data, repeated.Data) || !sameText(err, errRepeated) {
			t.Fatal("not deterministic")
		}
		if err != nil {
			checkError(t, err)
			return
		}
		if len(message.Data) > len(input)+schema.MaxGrowth {
			t.Errorf("grew by %d bytes", len(message.Data)-len(input))
		}
		if !utf8.Valid(message.Data) {
			t.Error("invalid UTF-8")
		}
		documentRules.object(t, input, message.Data)
		if err := validate(message.Data); err != nil {
			t.Errorf("the JSON Schema refuses it: %v", err)
		}
		again := normalize(t, message.Data)
		if !bytes.Equal(message.Data, again.Data) || message.Subject("versive") != again.Subject("versive") {
			t.Errorf("not idempotent:\n%s\n%s", message.Data, again.Data)
		}
		checkLiteral(t, message.Subject("versive"))
		checkHeader(t, message.Header)
		if _, err := schema.Decode(message.Header, message.Data); err != nil {
			t.Error(err)
		}
	})
}

// FuzzSubject: any ids make a subject without wildcards from which they are
// parsed again, and no other string is accepted as a subject.
func FuzzSubject(f *testing.F) {
	f.Add("study_123", "3fa85f64-5717-4562-b3fc-2c963f66afa6", svixID, "versive.interview.completed.s.i.m")
	f.Add("a.b", "*", ">", "versive.interview.completed.a%2Eb.%2A.%3E")
	f.Add("", "i", "m", "versive.interview.completed..i.m")
	f.Add("100%", "%2E", "%2e", "versive.interview.completed.%2e.i.m")
	f.Add("\x00\r\n\x7f", "\u00e4\u2028", "\xff\xc0\xaf", "versive.interview.completed.%C3%A4.i.%FF")
	f.Add(" ", "a b", "a+b", "versive.interview.completed.a+b.i.m")
	f.Add("s", "i", "m", "versive...s.i.m")
	f.Add("s", "", "m", "versive.study.created.s.%.%")
	f.Add("", "i", "", "versive.study.created.%.%.m")
	f.Add("s", "i", "m", "...... .%..%%%.%A.%zz")
	f.Fuzz(func(t *testing.T, study, interview, id, arbitrary string) {
		subject := schema.Subject{Prefix: "versive", Type: "interview.completed", StudyID: study, InterviewID: interview, ID: id}
		written := subject.String()
		parsed, err := schema.ParseSubject(written)
		if id == "" {
			if err == nil {
				t.Errorf("%q without a svix-id is accepted", written)
			}
		} else {
			if err != nil || parsed != subject {
				t.Errorf("%+v became %q became %+v, %v", subject, written, parsed, err)
			}
			checkLiteral(t, written)
		}
		if longest := len("versive.interview.completed.%.%.") + 3*(len(study)+len(interview)+len(id)); len(written) > longest {
			t.Errorf("%q has %d bytes, want at most %d", written, len(written), longest)
		}

		if parsed, err := schema.ParseSubject(arbitrary); err == nil && parsed.String() != arbitrary {
			t.Errorf("%q is accepted as %q", arbitrary, parsed.String())
		}
	})
}

// FuzzTimestamp compares timestamps with the standard library, where they
// follow RFC 3339 strictly.
func FuzzTimestamp(f *testing.F) {
	for _, seed := range []string{
		"", "2024-02-29T12:34:56Z", "2024-02-29 12:34:56.1200000009+05:45", "2024-02-29t12:34:56z",
		"9999-12-31T23:30:00-01:00", "0000-01-01T00:30:00+01:00", "2016-12-31T23:59:60Z", "2024-02-30T00:00:00Z",
		"2024-01-01T24:00:00Z", "2024-01-01T1:02:03Z", "2024-01-01T01:02:03,5Z", "2024-01-01T01:02:03+24:00",
		"2024-01-01T01:02:03.000", "2024-01-01T01:02:03-00:00", "0001-01-01T00:00:00Z", "2024-01-01", "2024-01-01 01:02 +01",
		"2024-01-01 01:02:03 UTC", "2024-01-01T01:02:03-0530", "Thu, 29 Feb 2024 12:34:56 GMT", "1704067200", "1704067200123.5",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		quoted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		value = text(t, quoted) // valid UTF-8
		message, err := schema.Normalize(svixID, body("", `,"created_at":`+string(quoted), ""))
		got := ""
		if err == nil {
			got = createdAt(t, message.Data)
		}

		want, strict := parseStrictly(value)
		switch {
		case strict && inFourDigits(want):
			if got != want.UTC().Format(time.RFC3339Nano) {
				t.Errorf("%q became %q (%v), want %v", value, got, err, want.UTC())
			}
		case strict:
			checkRefusal(t, err, schema.Invalid, "/interview/created_at is not an RFC 3339 timestamp")
		case err != nil:
			checkRefusal(t, err, schema.Invalid, "/interview/created_at is not an RFC 3339 timestamp")
		case value == "":
			if got != "null" {
				t.Errorf("the empty text became %q", got)
			}
		default: // more than RFC 3339 is accepted, but the result is RFC 3339
			want, ok := moment(value)
			if _, strict := parseStrictly(got); !ok || !strict || got != want.UTC().Format(time.RFC3339Nano) {
				t.Errorf("%q became %q", value, got)
			}
		}
	})
}

// rfc3339 is the grammar of RFC 3339. The library also accepts hours of one
// digit, a comma before the fraction, and offsets of a day or longer.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

func parseStrictly(value string) (at time.Time, ok bool) {
	at, err := time.Parse(time.RFC3339Nano, value)
	return at, err == nil && rfc3339.MatchString(value)
}

// createdAt returns the interview's canonical timestamp, or "null".
func createdAt(t *testing.T, data []byte) string {
	t.Helper()
	_, document := members(t, data)
	_, interview := members(t, document["interview"])
	if value := interview["created_at"]; string(value) != "null" {
		return text(t, value)
	}
	return "null"
}

func inFourDigits(at time.Time) bool {
	year := at.UTC().Year()
	return 0 <= year && year <= 9999
}

func sameText(a, b error) bool {
	return errors.Is(a, b) || a != nil && b != nil && a.Error() == b.Error()
}

func checkError(t *testing.T, err error) {
	t.Helper()
	e := refusal(t, err)
	switch e.Reason {
	case schema.Malformed, schema.UnsupportedType, schema.Invalid:
	default:
		t.Errorf("reason is %q", e.Reason)
	}
	checkVocabulary(t, e)
}

// checkLiteral checks that a subject has no empty tokens and no wildcards.
func checkLiteral(t *testing.T, subject string) {
	t.Helper()
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || r == '*' || r == '>' }) {
			t.Errorf("%q is not a literal subject", subject)
		}
	}
}

// checkHeader checks that all values are printable ASCII, which a broker does
// not change.
func checkHeader(t *testing.T, header map[string][]string) {
	t.Helper()
	for name, values := range header {
		if len(values) != 1 || values[0] == "" || strings.ContainsFunc(values[0], func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
			t.Errorf("%s: %q", name, values)
		}
	}
}
