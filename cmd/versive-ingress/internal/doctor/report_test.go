package doctor

import (
	"testing"

	"github.com/go-json-experiment/json"
)

// Programs read the report as JSON.
func TestReport(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		levels  []Level
		status  string
		verdict string
	}{
		{nil, "ok", "the promise holds"},
		{[]Level{Warning, Warning}, "warning", "the promise holds; 2 warnings"},
		{[]Level{Unknown, Warning}, "unknown", "whether the promise holds could not be checked; not checked: 1; 1 warning"},
		{[]Level{Unknown, Problem}, "problem", "the promise does not hold; 1 problem; not checked: 1"},
	} {
		broker := Result{Check: "broker", Status: OK, Seen: "seen"}
		for _, level := range test.levels {
			broker.add(level, "id", "found", "why", "remedy")
		}
		r := Report{Status: broker.Status, Checks: []Result{broker, {Check: "probe", Seen: "not made"}}}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Status string
			Checks []struct {
				Check, Status, Seen string
				Findings            []struct{ ID, Level, Found, Why, Remedy string }
			}
		}
		if err := json.Unmarshal(text, &got, json.RejectUnknownMembers(true), json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatal(err)
		}
		if got.Status != test.status || len(got.Checks) != 2 || got.Checks[0].Seen != "seen" || got.Checks[1].Status != "skipped" {
			t.Errorf("%v: got %s", test.levels, text)
		}
		for i, f := range got.Checks[0].Findings {
			if f.ID != "id" || f.Level != test.levels[i].String() || f.Found != "found" || f.Why != "why" || f.Remedy != "remedy" {
				t.Errorf("got %+v", f)
			}
		}
		if r.Verdict() != test.verdict {
			t.Errorf("%v: got %q, want %q", test.levels, r.Verdict(), test.verdict)
		}
	}
}
