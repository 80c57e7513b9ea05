package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A sender sends events over one connection and awaits the response. It returns an
// error unless the events were accepted.
type sender func(batch []*event) error

// A load describes how events are sent.
type load struct {
	senders  []sender      // one for each connection
	batch    int           // events that a sender sends together
	rate     int           // events a second; 0: each sender sends as soon as it has its response
	duration time.Duration // after it no event is sent; responses are still awaited
	repeat   bool          // after the last event, start again with the first
}

// A result is the outcome of a load.
type result struct {
	latencies []time.Duration // of each accepted event, sorted
	failures  int             // events that were not accepted
	lastErr   error           // of the last of them
	elapsed   time.Duration
}

// run sends events in their order until none are left, the duration has passed or
// ctx is done.
//
// With a rate, event n is due n/rate after the start, even if earlier ones are still
// in flight, and its latency counts from then. An event that waits for a connection
// because the handler stalls therefore shows the stall; counted from the actual send,
// it would not (coordinated omission).
func (l load) run(ctx context.Context, events []*event) result {
	var (
		workers sync.WaitGroup
		next    atomic.Int64
		mu      sync.Mutex // guards r and the outcomes of events
		r       = result{latencies: make([]time.Duration, 0, len(events))}
		start   = time.Now()
	)
	for _, send := range l.senders {
		workers.Go(func() {
			for {
				first := int(next.Add(int64(l.batch))) - l.batch
				due := time.Now()
				if l.rate > 0 {
					due = start.Add(time.Duration(float64(first) / float64(l.rate) * float64(time.Second)))
				}
				if l.repeat {
					first %= len(events)
				}
				if first+l.batch > len(events) || due.Sub(start) >= l.duration || !sleep(ctx, time.Until(due)) {
					return
				}
				batch := events[first : first+l.batch]
				err := send(batch)
				latency := time.Since(due)

				mu.Lock()
				for _, e := range batch {
					e.sent = true
					if err == nil {
						e.accepted = true
						r.latencies = append(r.latencies, latency)
					} else {
						r.failures++
						r.lastErr = err
					}
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	r.elapsed = time.Since(start)
	slices.Sort(r.latencies)
	return r
}

// sleep returns true after d, or false as soon as ctx is done.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// quantile returns the smallest of the sorted values that at least perMille
// thousandths of them do not exceed (nearest rank).
func quantile(sorted []time.Duration, perMille int) time.Duration {
	return sorted[(perMille*len(sorted)+999)/1000-1]
}

// A client posts events over one keep-alive connection, which is closed when ctx is
// done. It takes a fraction of the processor time of http.Client, because the load
// shares the machine with the system that it measures.
type client struct {
	ctx     context.Context
	address string
	conn    net.Conn // nil: not connected
	in      *bufio.Reader
}

// send is a sender of single events.
func (c *client) send(batch []*event) error {
	response, err := c.post(batch[0])
	if c.conn != nil && (err != nil || response.Close) {
		c.conn.Close()
		c.conn = nil // the next send opens another
	}
	if err == nil && response.StatusCode/100 != 2 {
		err = errors.New(response.Status)
	}
	return err
}

// post posts e and reads the whole response.
func (c *client) post(e *event) (*http.Response, error) {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.address, 5*time.Second)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(c.ctx, func() { conn.Close() })
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	request := net.Buffers{e.head, e.body}
	if _, err := request.WriteTo(c.conn); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return response, err
}
