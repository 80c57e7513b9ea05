package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	svix "github.com/svix/svix-webhooks/go"
)

// An event is a webhook with an id of its own, and what became of it.
type event struct {
	id   string
	head []byte // the request up to the body, signed
	body []byte // shared with other events

	sent     atomic.Bool // at least once
	accepted atomic.Bool // answered 2xx, at least once
}

// A source makes signed events. All are signed before the load begins, for
// signing costs as much as verifying does, and the load has to be cheap.
type source struct {
	secret  string
	webhook *svix.Webhook
	host    string
	run     string   // tells the ids of two sources apart
	bodies  [][]byte // of one size, taken in turns
	events  []*event // all that were made
}

// path is where all handlers take webhooks.
const path = "/webhooks/versive"

// There are a few different interviews of each size. More would only take
// memory: ids and signatures are each event's own.
const (
	maxBodies     = 16
	maxBodiesSize = 16 << 20 // bytes
)

func newSecret() string {
	key := make([]byte, 24)
	_, _ = rand.Read(key) // never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// newSource returns a source of events with bodies of about size bytes. Its
// host is to be set before they are signed.
func newSource(secret string, size int) (*source, error) {
	run := make([]byte, 6)
	_, _ = rand.Read(run)
	s := &source{secret: secret, run: hex.EncodeToString(run)}
	var err error
	if s.webhook, err = svix.NewWebhook(s.secret); err != nil {
		return nil, err
	}
	for n := range min(maxBodies, max(1, maxBodiesSize/size)) {
		body, err := newInterview(size, n)
		if err != nil {
			return nil, err
		}
		s.bodies = append(s.bodies, body)
	}
	return s, nil
}

// next makes n more events. They cannot be posted before they are signed.
func (s *source) next(n int) []*event {
	first := len(s.events)
	made := make([]event, n) // in one piece
	for i := range made {
		e := &made[i]
		e.id = fmt.Sprintf("msg_%s%09d", s.run, first+i)
		e.body = s.bodies[(first+i)%len(s.bodies)]
		s.events = append(s.events, e)
	}
	return s.events[first:]
}

// signAll signs events now: they are valid for the tolerance of the handlers,
// five minutes.
func (s *source) signAll(events []*event) error {
	now := time.Now()
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	cpus := runtime.GOMAXPROCS(0)
	for worker := range cpus {
		workers.Go(func() {
			for i := worker; i < len(events); i += cpus {
				if err := s.sign(events[i], now); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *source) sign(e *event, now time.Time) error {
	signature, err := s.webhook.Sign(e.id, now, e.body)
	if err != nil {
		return fmt.Errorf("signing %s: %w", e.id, err)
	}
	e.head = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Svix-Webhooks/1.0\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n"+
		"svix-id: %s\r\nsvix-timestamp: %d\r\nsvix-signature: %s\r\n\r\n",
		path, s.host, len(e.body), e.id, now.Unix(), signature)
	return nil
}

// shortly is how many events lie at most between an event and its early
// resend: with many connections the first may still be in flight.
const shortly = 256

// withResends returns the order in which events are sent, the given share of
// all sends being resends: half of them shortly after the first, half at any
// time later.
func withResends(events []*event, share float64) []*event {
	if share <= 0 {
		return events
	}
	random := mathrand.New(mathrand.NewPCG(1, 2)) // the same in all rounds
	order := make([]*event, 0, int(float64(len(events))/(1-share))+1)
	for n := 0; n < len(events); {
		switch {
		case n == 0 || random.Float64() >= share:
			order = append(order, events[n])
			n++
		case random.IntN(2) == 0:
			order = append(order, events[n-1-random.IntN(min(n, shortly))])
		default:
			order = append(order, events[random.IntN(n)])
		}
	}
	return order
}
