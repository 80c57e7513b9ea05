package ingest_test

import (
	"io"
	"testing"

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
	const small, many = 64 << 10, 64
	s := newStore(t)
	r := newHarness(t, s)
	for i := range many {
		announce(t, r, signed(t, "msg_large_"+itoa(i), eventOf(maxBody)), 0)
		announce(t, r, signed(t, "msg_small_"+itoa(i), eventOf(small)), 1)
	}
	embeddedtest.Await(t, "a byte of each small one has arrived", func() bool { return r.inflight(t) >= many*4<<10 })
	for name, size := range map[string]int{"1 KB": 1000, "64 KiB": small, "100 KB": 100_000, "the largest": maxBody} {
		if a := exchange(t, r.address, signed(t, "msg_"+itoa(size), eventOf(size))); a.status != 200 {
			t.Errorf("%s: got %d %s", name, a.status, a.body)
		}
	}
}

// When the budget is full, the slowest upload is shed, neither a faster one nor
// one that has arrived whole.
func TestSlowestIsShed(t *testing.T) {
	t.Parallel()
	const (
		part  = 64<<10 + 1 // of a body, for which 128 KiB are charged
		count = maxInflight / 4 * 3 / (128 << 10)
	)
	release, entered := make(chan struct{}), make(chan string, 100)
	r := newHarness(t, held(release, entered), func(c *ingest.Config) { c.MaxBody = 128 << 10 })
	var rest []io.Writer
	var answers []func() answer
	request := func(i int) request { return signed(t, "msg_"+itoa(i), eventOf(128<<10)) }
	for i := range count {
		conn, read := announce(t, r, request(i), part)
		rest, answers = append(rest, conn), append(answers, read)
		embeddedtest.Await(t, "it is charged", func() bool { return r.inflight(t) == float64((i+1)*128<<10) })
	}
	close(release)
	quick := signed(t, "msg_quick", eventOf(100_000))
	// The others have sent more, so it takes a while until they count as slower.
	embeddedtest.Await(t, "the quick one is accepted", func() bool { return exchange(t, r.address, quick).status == 200 })
	if a := answers[0](); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("the first and slowest got %d with %v", a.status, a.header)
	}
	for i := 1; i < count; i++ {
		write(t, rest[i], request(i).body[part:])
		if a := answers[i](); a.status != 200 {
			t.Errorf("slow one %d got %d %s", i, a.status, a.body)
		}
	}
	embeddedtest.Await(t, "the budget is empty", func() bool { return r.inflight(t) == 0 })
}
