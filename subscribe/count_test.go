package subscribe_test

import (
	"testing"
	"time"

	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// Count and Range agree on every selection.
func TestCount(t *testing.T) {
	js, end := exampleStream()
	defer end()
	source := subscribe.Source{JetStream: js}
	var times []time.Time
	for m, err := range source.Range(t.Context(), subscribe.Selection{}) {
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, m.Time)
	}
	for _, test := range []struct {
		sel  subscribe.Selection
		want uint64
	}{
		{subscribe.Selection{}, 2},
		{subscribe.Selection{First: 2}, 1},
		{subscribe.Selection{First: 3}, 0},
		{subscribe.Selection{Last: 1}, 1},
		{subscribe.Selection{Last: 7}, 2},
		{subscribe.Selection{First: 2, Last: 1}, 0},
		{subscribe.Selection{Since: times[1]}, 1},
		{subscribe.Selection{Until: times[1]}, 1},
		{subscribe.Selection{Since: times[1], Until: times[1]}, 0},
		{subscribe.Selection{First: 2, Since: times[0]}, 1},
		{subscribe.Selection{Last: 1, Until: times[1].Add(time.Second)}, 1},
		{subscribe.Selection{Filter: schema.Filter{InterviewID: "interview_1"}}, 1},
		{subscribe.Selection{Subject: "versive.other.>"}, 0},
	} {
		n, err := source.Count(t.Context(), test.sel)
		if err != nil || n != test.want {
			t.Errorf("%+v: counted %d, %v; want %d", test.sel, n, err, test.want)
		}
		n = 0
		for _, err := range source.Range(t.Context(), test.sel) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != test.want {
			t.Errorf("%+v: read %d, want %d", test.sel, n, test.want)
		}
	}
	if _, err := source.Count(t.Context(), subscribe.Selection{Kind: schema.KindDead}); err == nil {
		t.Error("a stream that does not exist is counted")
	}
}
