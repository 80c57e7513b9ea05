package page

import (
	"testing"
	"time"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	var h history
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 100 {
		h.add(start.Add(time.Duration(i)*time.Minute), Requests{Received: uint64(2 * i), Stored: uint64(i)})
	}
	sum, list := h.lastHour(Requests{Received: 205, Stored: 99})
	if len(list) != minutes {
		t.Fatalf("%d minutes", len(list))
	}
	if want := (Requests{Received: 125, Stored: 59}); sum != want {
		t.Errorf("sum %+v, want %+v", sum, want)
	}
	if first, want := list[0], (Minute{start.Add(40 * time.Minute), Requests{Received: 2, Stored: 1}}); first != want {
		t.Errorf("first %+v, want %+v", first, want)
	}
	if last, want := list[minutes-1], (Minute{start.Add(99 * time.Minute), Requests{Received: 7}}); last != want {
		t.Errorf("last %+v, want %+v", last, want)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := number(n); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
