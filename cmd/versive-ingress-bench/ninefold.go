package main

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ninefold is the flood of many small requests: what nobody signed, on nine
// times the connections of the load and at nine times its rate, with bodies
// like its own. Together they are ten times the load, and nine tenths forged.
const (
	ninefold       = "ninefold"
	ninefoldEvents = 1024
)

// startNinefold starts the flood beside a load and returns what ends it.
// Half of the requests have the signature of a stranger, and half have none.
func startNinefold(ctx context.Context, sys *system, c testCase) (stop func() tally, err error) {
	s, err := newSource(newSecret(), c.Size)
	if err != nil {
		return nil, err
	}
	s.host = sys.address
	events := s.next(ninefoldEvents)
	if err := s.signAll(events); err != nil {
		return nil, err
	}
	for i := 0; i < len(events); i += 2 {
		events[i].head = unsigned(events[i].head)
	}

	ctx, cancel := context.WithCancel(ctx)
	f := &flood{address: sys.address, events: events}
	var next atomic.Int64
	var workers sync.WaitGroup
	began := time.Now()
	for range 9 * c.Connections {
		workers.Go(func() {
			client := &client{address: sys.address, until: began.Add(2*maxDuration + time.Minute)}
			defer client.close()
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if c.Rate > 0 && !sleepUntil(ctx, began.Add(time.Duration(n)*time.Second/time.Duration(9*c.Rate))) {
					return
				}
				f.count(client.do(events[n%ninefoldEvents]))
			}
		})
	}
	return func() tally {
		cancel()
		workers.Wait()
		return f.tally(began)
	}, nil
}

// unsigned returns the head of a request without the sender's headers.
func unsigned(head []byte) []byte {
	lines := bytes.SplitAfter(head, []byte("\r\n"))
	return bytes.Join(slices.DeleteFunc(lines, func(line []byte) bool { return bytes.HasPrefix(line, []byte("svix-")) }), nil)
}
