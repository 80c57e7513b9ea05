package page

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/find"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

// functions are those of the template.
var functions = template.FuncMap{
	"number": number,
	"bytes":  terminal.Bytes[uint64],
	"age":    func(seconds float64) string { return terminal.Age(time.Duration(seconds * float64(time.Second))) },
	"since":  func(now, t time.Time) string { return terminal.Age(now.Sub(t)) + " ago" },
	"clock":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
	"iso":    func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"share":  share,
	"flows":  flows,
	"tiles":  tiles,
	"latest": find.Latest[find.Held],
	"older":  find.Older[find.Held],
	"plain":  func(id string) string { return terminal.Printable([]byte(id)) },
}

// number returns an integer with commas between thousands.
func number(n any) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// share returns a part of a whole in percent.
func share(part, whole uint64) string {
	if percent := part * 100 / max(1, whole); percent > 0 || part == 0 {
		return fmt.Sprintf("%d %%", percent)
	}
	return "under 1 %"
}

// A flow is the requests of the last hour with one outcome.
type flow struct {
	Name, About string
	of          func(Requests) uint64

	Count   uint64
	Bars    string // the SVG path of the counts by minute, in a box of 60 by 20
	Highest uint64 // of these counts
}

// flows returns all requests, and then those of each outcome.
func flows(s *Status) []flow {
	list := []flow{
		{Name: "Received", About: "all requests", of: func(r Requests) uint64 { return r.Received }},
		{Name: "Stored", About: "200: new events", of: func(r Requests) uint64 { return r.Stored }},
		{Name: "Duplicates", About: "200: resent, and stored before", of: func(r Requests) uint64 { return r.Duplicates }},
		{Name: "Quarantined", About: "202: authentic, but not understood", of: func(r Requests) uint64 { return r.Quarantined }},
		{Name: "Rejected", About: "4xx: not authentic, or no webhook", of: func(r Requests) uint64 { return r.Rejected }},
		{Name: "Unavailable", About: "503: not stored; the sender resends", of: func(r Requests) uint64 { return r.Unavailable }},
	}
	for i := range list {
		f := &list[i]
		f.Count = f.of(s.LastHour)
		for _, m := range s.Minutes {
			f.Highest = max(f.Highest, f.of(m.Requests))
		}
		var path strings.Builder
		for i, m := range s.Minutes {
			if n := f.of(m.Requests); n > 0 {
				height := max(1, 20*float64(n)/float64(f.Highest))
				fmt.Fprintf(&path, "M%d 20v-%.1fh.8V20z", minutes-len(s.Minutes)+i, height)
			}
		}
		f.Bars = path.String()
	}
	return list
}

// A tile is the number of messages that wait somewhere, and the command for them.
type tile struct {
	Name, Value, Remedy string
	Alert               bool
}

func tiles(s *Status) []tile {
	wait := func(name string, n *uint64, remedy string) tile {
		if n == nil {
			return tile{Name: name, Value: "unknown"}
		}
		return tile{name, number(*n), remedy, *n > 0}
	}
	list := []tile{
		wait("in the quarantine", s.Quarantine, "versive-ingress quarantine list"),
		wait("dead letters", s.Dead, "versive-ingress deadletters list"),
	}
	if s.Hub != nil {
		hub := wait("for the hub", &s.Hub.Pending, "versive-ingress doctor")
		hub.Alert = !s.Hub.Connected
		list = append(list, hub)
	}
	return list
}
