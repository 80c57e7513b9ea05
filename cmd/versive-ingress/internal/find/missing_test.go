package find_test

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/cmd/versive-ingress/internal/find"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func missing(t *testing.T, f find.Finder, text string) map[string]find.Absence {
	t.Helper()
	got := map[string]find.Absence{}
	for list, err := range find.ReadInterviews(strings.NewReader(text), find.Part) {
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Missing(t.Context(), list, terminal.NewProgress(io.Discard, false)); err != nil {
			t.Fatal(err)
		}
		maps.Insert(got, list.All())
	}
	return got
}

// Stored, missing, quarantined and erased interviews are told apart, in short lists and
// in long ones.
func TestMissing(t *testing.T) {
	t.Parallel()
	stream := embeddedtest.Start(t)
	f := find.Finder{Source: subscribe.Source{JetStream: stream.JetStream, Stream: "VERSIVE", Subject: "versive"}}
	publish := func(id, interview string) {
		stream.Publish(id, schema.InterviewCompleted{Type: "interview.completed", Interview: schema.Interview{ID: interview}, Study: schema.Study{ID: "s"}})
	}
	for _, id := range []string{"a", "b", "c%"} {
		publish("msg_"+id, id)
	}
	publish("msg_b_again", "b")
	later := []byte(strings.Replace(string(body("s", "q")), "completed", "started", 1))
	problem := &schema.Error{Reason: schema.UnsupportedType}
	put(t, stream.JetStream, schema.Quarantine("msg_q", later, problem, nil))
	put(t, stream.JetStream, schema.Quarantine("msg_text", []byte("x"), problem, nil))

	long := "a\nb\nc%\nq\n"
	for i := range 1000 {
		long += fmt.Sprintf("missing-%d\n", i)
	}
	check := func(when string, want map[string]find.Absence) {
		t.Helper()
		if diff := cmp.Diff(want, missing(t, f, "\ufeffa\r\n\r\n b \nc%\nq\na\nA")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
		got := missing(t, f, long)
		maps.DeleteFunc(got, func(id string, state find.Absence) bool {
			return state == find.Missing && strings.HasPrefix(id, "missing-")
		})
		got["A"] = find.Missing
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, of a long list (-want +got):\n%s", when, diff)
		}
	}
	want := map[string]find.Absence{"a": find.Stored, "b": find.Stored, "c%": find.Stored, "q": find.Quarantined, "A": find.Missing}
	check("before an erasure", want)
	stream.Erase("msg_b_again") // one event of the interview is left
	stream.Erase("msg_c%")
	want["c%"] = find.Erased
	check("after an erasure", want)
}

// A list is read in parts.
func TestReadInterviews(t *testing.T) {
	t.Parallel()
	var parts []int
	for list, err := range find.ReadInterviews(strings.NewReader("a\nb\na\nc\nd\ne\nf"), 3) {
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for range list.All() {
			n++
		}
		parts = append(parts, n)
	}
	if !slices.Equal(parts, []int{3, 3}) {
		t.Errorf("the parts have %d interviews", parts)
	}
}
