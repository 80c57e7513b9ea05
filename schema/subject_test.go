package schema_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/schema"
)

func TestSubject(t *testing.T) {
	for _, test := range []struct {
		subject schema.Subject
		want    string
	}{
		{
			schema.Subject{Prefix: "versive", Type: "interview.completed", StudyID: "study_123", InterviewID: "3fa85f64-5717", ID: "msg_1"},
			"versive.interview.completed.study_123.3fa85f64-5717.msg_1",
		},
		{
			schema.Subject{Prefix: "p", Type: "t", StudyID: "a.b", InterviewID: "*", ID: ">"},
			"p.t.a%2Eb.%2A.%3E",
		},
		{
			schema.Subject{Prefix: "p", Type: "a.b.c.d", StudyID: " ", InterviewID: "\x00\xff", ID: "%2E"},
			"p.a.b.c.d.%20.%00%FF.%252E",
		},
		{
			schema.Subject{Prefix: "p", Type: "t", StudyID: "AZaz09_-", InterviewID: "\u00e4", ID: "~!@/+"},
			"p.t.AZaz09_-.%C3%A4.%7E%21%40%2F%2B",
		},
	} {
		if got := test.subject.String(); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
		got, err := schema.ParseSubject(test.want)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(test.subject, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", test.want, diff)
		}
	}
}

func TestParseSubjectRefuses(t *testing.T) {
	for name, subject := range map[string]string{
		"empty":               "",
		"too short":           "versive.completed.study.interview",
		"prefix empty":        ".interview.completed.study.interview.msg",
		"type empty":          "versive..study.interview.msg",
		"type partly empty":   "versive.interview..study.interview.msg",
		"study empty":         "versive.interview.completed..interview.msg",
		"interview empty":     "versive.interview.completed.study..msg",
		"id empty":            "versive.interview.completed.study.interview.",
		"star":                "versive.interview.completed.study.*.msg",
		"greater":             "versive.interview.completed.study.interview.>",
		"space":               "versive.interview.completed.study.inter view.msg",
		"not ASCII":           "versive.interview.completed.study.\u00e4.msg",
		"percent alone":       "versive.interview.completed.study.100%.msg",
		"percent cut short":   "versive.interview.completed.study.100%2.msg",
		"percent not hex":     "versive.interview.completed.study.%GG.msg",
		"percent lower case":  "versive.interview.completed.study.%2e.msg",
		"percent unnecessary": "versive.interview.completed.study.%61.msg",
		"plus":                "versive.interview.completed.study.a+b.msg",
	} {
		if got, err := schema.ParseSubject(subject); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

// TestSubjectFits: the longest subject fits a line of the broker's protocol.
func TestSubjectFits(t *testing.T) {
	id := strings.Repeat("\x00", schema.MaxIDLen)
	subject := schema.Subject{
		Prefix:      strings.Repeat("p", 32),
		Type:        "interview.completed",
		StudyID:     id,
		InterviewID: id,
		ID:          strings.Repeat("~", schema.MaxSvixIDLen),
	}
	if n := len(subject.String()); n > 2_000 {
		t.Errorf("%d bytes, want at most 2,000, half of the broker's limit", n)
	}
}

func TestFilter(t *testing.T) {
	for _, test := range []struct {
		filter schema.Filter
		want   string
	}{
		{schema.Filter{}, "versive.>"},
		{schema.Filter{Type: "interview.completed"}, "versive.interview.completed.*.*.*"},
		{schema.Filter{StudyID: "study.1"}, "versive.*.*.study%2E1.*.*"},
		{schema.Filter{InterviewID: "i*"}, "versive.*.*.*.i%2A.*"},
		{schema.Filter{Type: "interview.completed", StudyID: "s", InterviewID: "i"}, "versive.interview.completed.s.i.*"},
		{schema.Filter{ID: "msg_1.2"}, "versive.*.*.*.*.msg_1%2E2"},
	} {
		if got := test.filter.Subject("versive"); got != test.want {
			t.Errorf("%+v: got %s, want %s", test.filter, got, test.want)
		}
	}
}

// TestFilterMatchesEvents: the wildcards match the subjects of Normalize.
func TestFilterMatchesEvents(t *testing.T) {
	m := normalize(t, body("", "", ""))
	subject := strings.Split(m.Subject("versive"), ".")
	filter := strings.Split(schema.Filter{StudyID: "s", InterviewID: "i"}.Subject("versive"), ".")
	if len(filter) != len(subject) {
		t.Fatalf("filter %q has another number of tokens than subject %q", filter, subject)
	}
	for i := range filter {
		if filter[i] != "*" && filter[i] != subject[i] {
			t.Errorf("filter %q does not match subject %q", filter, subject)
		}
	}
}

func TestParseID(t *testing.T) {
	for subject, want := range map[string]string{
		"versive.interview.completed.s.i.msg_1": "msg_1",
		"versive-quarantine.a%2Eb":              "a.b",
		"versive-dead.reports.msg_1":            "msg_1",
		"versive.interview.completed.s.i.":      "",
		"versive.interview.completed.s.i.a+b":   "",
	} {
		if got, err := schema.ParseID(subject); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %q, %v; want %q", subject, got, err, want)
		}
	}
}
