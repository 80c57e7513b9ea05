package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A flood is what an ingress must withstand while others want to be served:
// many connections that send the largest bodies there may be, all at once.
type flood struct {
	address string
	stalled bool // half of the body, and then nothing
	events  []*event

	accepted, busy, refused, cut atomic.Int64
}

// floodKinds: signed by a stranger, by the sender, and by the sender but never
// completed; and small ones.
var floodKinds = []string{"forged", "signed", "stalled", ninefold}

const (
	floodConnections = 2000
	floodSize        = 8 << 20
	floodEvents      = 32
	// floodPause is between two requests of a connection. Without one, refusing
	// takes the whole machine, and nothing is measured but that.
	floodPause = time.Second
	floodChunk = 64 << 10
)

// A tally is how the requests of a flood ended.
type tally struct {
	Accepted int64   `json:"accepted"` // 2xx
	Busy     int64   `json:"busy"`     // 503
	Refused  int64   `json:"refused"`  // another status
	Cut      int64   `json:"cut"`      // no answer: the connection was closed meanwhile
	Seconds  float64 `json:"seconds"`  // that the flood lasted
}

func (t *tally) add(u tally) {
	t.Accepted += u.Accepted
	t.Busy += u.Busy
	t.Refused += u.Refused
	t.Cut += u.Cut
	t.Seconds += u.Seconds
}

// startFlood starts a flood on the system and returns what ends it. Events
// that may be accepted become s's: they count for the proof.
func startFlood(ctx context.Context, sys *system, c testCase, s *source) (stop func() tally, err error) {
	kind := c.Flood
	switch kind {
	case "":
		return func() tally { return tally{} }, nil
	case ninefold:
		return startNinefold(ctx, sys, c)
	}
	secret := s.secret
	if kind == "forged" {
		secret = newSecret()
	}
	large, err := newSource(secret, floodSize)
	if err != nil {
		return nil, err
	}
	large.host = sys.address
	f := &flood{address: sys.address, stalled: kind == "stalled", events: large.next(floodEvents)}
	if err := large.signAll(f.events); err != nil {
		return nil, err
	}
	if kind == "signed" {
		s.events = slices.Concat(s.events, f.events)
	}

	ctx, cancel := context.WithCancel(ctx)
	began := time.Now()
	var workers sync.WaitGroup
	for n := range floodConnections {
		workers.Go(func() { f.run(ctx, n) })
	}
	return func() tally {
		cancel()
		workers.Wait()
		return f.tally(began)
	}, nil
}

func (f *flood) tally(began time.Time) tally {
	return tally{
		Accepted: f.accepted.Load(), Busy: f.busy.Load(), Refused: f.refused.Load(), Cut: f.cut.Load(),
		Seconds: time.Since(began).Seconds(),
	}
}

// run posts events over one connection at a time until ctx ends.
func (f *flood) run(ctx context.Context, n int) {
	for ; ; n++ {
		e := f.events[n%len(f.events)]
		status, err := f.post(ctx, e)
		if ctx.Err() != nil { // cut by us
			return
		}
		if f.count(status, err) {
			e.accepted.Store(true)
		}
		if !sleepUntil(ctx, time.Now().Add(floodPause)) {
			return
		}
	}
}

// count counts an answer and reports whether it was 2xx.
func (f *flood) count(status int, err error) (accepted bool) {
	switch {
	case err != nil:
		f.cut.Add(1)
	case status == 503:
		f.busy.Add(1)
	case 200 <= status && status < 300:
		f.accepted.Add(1)
		return true
	default:
		f.refused.Add(1)
	}
	return false
}

func (f *flood) post(ctx context.Context, e *event) (status int, err error) {
	c := &client{address: f.address, until: time.Now().Add(maxDuration)}
	if err := c.connect(); err != nil {
		return 0, err
	}
	defer c.close()
	conn := c.conn
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	e.sent.Store(true)
	body := e.body
	if f.stalled {
		body = body[:len(body)/2]
	}
	_, err = conn.Write(e.head)
	for chunk := range slices.Chunk(body, floodChunk) {
		if err != nil {
			break // refused, perhaps; then there is an answer
		}
		_, err = conn.Write(chunk)
	}
	status, readErr := c.readAnswer()
	if readErr != nil {
		return 0, errors.Join(err, readErr)
	}
	return status, nil
}

func (t tally) String() string {
	return fmt.Sprintf("in %.0f s %d requests accepted, %d answered 503, %d refused, %d cut", t.Seconds, t.Accepted, t.Busy, t.Refused, t.Cut)
}
