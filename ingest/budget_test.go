package ingest_test

import (
	"fmt"
	"io"
	"testing"
	"time"

	"versive-ingress/ingest"
	"versive-ingress/publish/embedded/embeddedtest"
)

// announce sends the head of r and the first n bytes of its body.
func announce(t *testing.T, h *harness, r request, n int) (io.Writer, func() answer) {
	t.Helper()
	conn, from := dial(t, h.address)
	write(t, conn, r.head()+r.body[:n])
	return conn, func() answer { return readAnswer(t, from, r) }
}

// The budget is charged for what has arrived, not for the announced length.
func TestAnnouncedBodies(t *testing.T) {
	t.Parallel()
	const small, many = 64 << 10, 16
	s := newStore(t)
	r := newHarness(t, s)
	var larges, smalls []request
	for i := range many {
		larges = append(larges, signed(t, "msg_large_"+itoa(i), eventOf(maxBody)))
		smalls = append(smalls, signed(t, "msg_small_"+itoa(i), eventOf(small)))
	}
	withinBodyTimeout(t, func() string {
		for i := range many {
			announce(t, r, larges[i], 0)
			announce(t, r, smalls[i], 1)
		}
		for began := time.Now(); r.inflight(t) < many*4<<10; time.Sleep(5 * time.Millisecond) {
			if time.Since(began) > ingest.BodyTimeout {
				return "not a byte of each small one has arrived"
			}
		}
		return ""
	})
	for name, size := range map[string]int{"1 KB": 1000, "64 KiB": small, "100 KB": 100_000, "the largest": maxBody} {
		if a := exchange(t, r.address, signed(t, "msg_"+itoa(size), eventOf(size))); a.status != 200 {
			t.Errorf("%s: got %d %s", name, a.status, a.body)
		}
	}
}

// withinBodyTimeout calls attempt, which returns a problem or "". It is repeated if it
// took so long, on a busy machine, that bodies were no longer waited for.
func withinBodyTimeout(t *testing.T, attempt func() (problem string)) {
	t.Helper()
	embeddedtest.Await(t, "an attempt within BodyTimeout", func() bool {
		began := time.Now()
		problem := attempt()
		if problem != "" && time.Since(began) < ingest.BodyTimeout {
			t.Fatal(problem)
		}
		return problem == ""
	})
}

// When the budget is full, the slowest upload is shed, neither a faster one nor
// one that has arrived whole.
func TestSlowestIsShed(t *testing.T) {
	t.Parallel()
	const (
		part  = 64<<10 + 1 // of a body, for which 128 KiB are charged
		count = maxInflight / 4 * 3 / (128 << 10)
	)
	var slow []request
	for i := range count {
		slow = append(slow, signed(t, "msg_"+itoa(i), eventOf(128<<10)))
	}
	quick := signed(t, "msg_quick", eventOf(100_000))
	withinBodyTimeout(t, func() string {
		release, entered := make(chan struct{}), make(chan string, 100)
		close(release)
		r := newHarness(t, held(release, entered), func(c *ingest.Config) { c.MaxBody = 128 << 10 })
		var rest []io.Writer
		var answers []func() answer
		for i, began := 0, time.Now(); i < count; i++ {
			conn, read := announce(t, r, slow[i], part)
			rest, answers = append(rest, conn), append(answers, read)
			for r.inflight(t) != float64((i+1)*128<<10) {
				if time.Since(began) > ingest.BodyTimeout {
					return "a part is not charged"
				}
				time.Sleep(time.Millisecond)
			}
		}
		// The others have sent more, so it takes a while until they count as slower.
		embeddedtest.Await(t, "the quick one is accepted", func() bool { return exchange(t, r.address, quick).status == 200 })
		if a := answers[0](); a.status != 503 || a.header.Get("Retry-After") == "" {
			return fmt.Sprintf("the first and slowest got %d with %v", a.status, a.header)
		}
		for i := 1; i < count; i++ {
			_, _ = io.WriteString(rest[i], slow[i].body[part:]) // fails after the timeout
			if a := answers[i](); a.status != 200 {
				return fmt.Sprintf("slow one %d got %d %s", i, a.status, a.body)
			}
		}
		embeddedtest.Await(t, "the budget is empty", func() bool { return r.inflight(t) == 0 })
		return ""
	})
}
