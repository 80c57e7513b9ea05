package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
)

// kind is what a webhook of a storm is.
type kind int

const (
	understood kind = iota // authentic, becomes an event
	unknown                // authentic, for the quarantine
	forged                 // signed by somebody else, or changed afterwards
	unsigned
)

func (k kind) authentic() bool { return k == understood || k == unknown }

// An attempt is one request, with its answer.
type attempt struct {
	id     string
	kind   kind
	again  bool // the event was sent before
	hungUp bool // the client did not wait for the answer
	took   time.Duration
	answer sender.Answer // status 0: none came
}

// A storm is many senders that post webhooks of all kinds, real and forged, at
// the same time. What is real is sent again until it is accepted, signed anew
// each time, as the vendor does, only sooner.
type storm struct {
	urls    []string // each attempt goes to one of them
	senders int
	small   bool          // no large bodies
	think   time.Duration // the longest pause between two webhooks of a sender
	hangUps float64       // the share of attempts whose client does not wait
	twins   float64       // the share of attempts that are made twice at the same time
	allowed []int         // statuses that an authentic webhook may get beside 2xx and 503
	alone   bool          // the broker has no replicas, of which one could lag
	erases  bool          // tombstones are expected

	secret string
	client *http.Client
	stop   context.CancelFunc // no new events
	giveUp context.CancelFunc // nor attempts
	done   sync.WaitGroup

	mu       sync.Mutex
	history  []attempt
	accepted int // events, at least once

	batched, missing, twice, forgedStored int // set by check
	damage                                    // set by the faults of disks and processes
}

// begin starts the storm on the ingresses of some settings. It ends with settle.
func (r *round) begin(s *storm, ingresses ...config.Settings) {
	for _, i := range ingresses {
		s.urls = append(s.urls, "http://"+i.Listen+i.Path)
	}
	s.secret = ingresses[0].Secrets[0]
	if s.senders == 0 {
		s.senders = 12
	}
	if !r.long { // for the processor's sake
		s.think *= 10
	}
	transport := &http.Transport{MaxIdleConnsPerHost: s.senders}
	s.client = &http.Client{Transport: transport, Timeout: config.SenderTimeout}

	giveUp, stopAttempts := context.WithCancel(r.Context())
	more, stop := context.WithCancel(giveUp)
	s.stop, s.giveUp = stop, stopAttempts
	for n := range s.senders {
		random := rand.New(rand.NewPCG(r.random.Uint64(), uint64(n)))
		s.done.Go(func() { s.send(more, giveUp, random, n) })
	}
	r.storm = s
	r.Cleanup(func() {
		s.giveUp()
		s.done.Wait()
		transport.CloseIdleConnections()
	})
}

// settle ends the storm when all that was sent is accepted.
func (r *round) settle() {
	r.Helper()
	r.storm.stop()
	done := make(chan struct{})
	go func() { r.storm.done.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(embeddedtest.Timeout):
		r.Error("the faults are over, and still not all is accepted")
		r.storm.giveUp()
		<-done
	}
}

// send posts one webhook after another until more ends, and each until it is
// accepted or giveUp ends.
func (s *storm) send(more, giveUp context.Context, random *rand.Rand, sender int) {
	for n := 0; more.Err() == nil; n++ {
		k := understood
		switch p := random.Float64(); {
		case p < 0.08:
			k = forged
		case p < 0.12:
			k = unsigned
		case p < 0.20:
			k = unknown
		}
		id := fmt.Sprintf("msg_%d_%d", sender, n)
		body := s.body(random, id, k)
		if !k.authentic() {
			s.attempt(giveUp, random, attempt{id: id, kind: k}, body)
		} else if s.deliver(giveUp, random, id, k, body) && random.Float64() < 0.15 {
			s.attempt(giveUp, random, attempt{id: id, kind: k, again: true}, body) // by hand, or the answer got lost
		}
		if s.think > 0 {
			time.Sleep(time.Duration(random.Int64N(int64(s.think))))
		}
	}
}

// deliver reports whether an authentic webhook was accepted in the end.
func (s *storm) deliver(giveUp context.Context, random *rand.Rand, id string, k kind, body []byte) bool {
	for n := 0; giveUp.Err() == nil; n++ {
		var twin sync.WaitGroup
		if random.Float64() < s.twins {
			random := rand.New(rand.NewPCG(random.Uint64(), 0))
			twin.Go(func() { s.attempt(giveUp, random, attempt{id: id, kind: k, again: true}, body) })
		}
		accepted := s.attempt(giveUp, random, attempt{id: id, kind: k, again: n > 0}, body)
		twin.Wait()
		if accepted {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.accepted++
			return true
		}
		time.Sleep(5*time.Millisecond + time.Duration(random.Int64N(int64(min(n+1, 10)*20)))*time.Millisecond)
	}
	return false
}

// body returns the body of an authentic webhook, from a few KiB to over the
// size that goes into batches.
func (s *storm) body(random *rand.Rand, id string, k kind) []byte {
	if k == unknown {
		return fmt.Appendf(nil, `{"event_type":"interview.imagined","id":%q}`, id)
	}
	words := random.IntN(2 << 10)
	if !s.small && random.Float64() < 0.02 {
		words = 16 << 10
	}
	return []byte(strings.Replace(string(interview(id)), `"transcript": "..."`, `"transcript": "`+strings.Repeat("word ", words)+`"`, 1))
}

// attempt posts a webhook once, notes what came of it, and reports whether it
// was accepted.
func (s *storm) attempt(ctx context.Context, random *rand.Rand, a attempt, body []byte) bool {
	url := s.urls[random.IntN(len(s.urls))]
	request := s.sign(url, random, a, body)
	if a.kind.authentic() && random.Float64() < s.hangUps {
		a.hungUp = true
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(random.Int64N(int64(8*time.Millisecond))))
		defer cancel()
	}
	began := time.Now()
	a.answer = s.post(request.WithContext(ctx))
	a.took = time.Since(began)
	s.note(a)
	return a.answer.Accepted()
}

func (s *storm) note(a attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = append(s.history, a)
}

func (s *storm) sign(url string, random *rand.Rand, a attempt, body []byte) *http.Request {
	secret := s.secret
	if a.kind == forged && random.IntN(2) == 0 {
		secret = config.NewSecret()
	}
	request := signed(url, secret, a.id, body)
	switch {
	case a.kind == unsigned:
		request.Header.Del("Svix-Signature")
	case a.kind == forged && secret == s.secret: // signed, and changed on the way
		body = bytes.Clone(body)
		body[random.IntN(len(body))] ^= 1 << random.IntN(8)
		request.Body = io.NopCloser(bytes.NewReader(body))
		request.GetBody = nil
	}
	return request
}

// post returns the answer, or none.
func (s *storm) post(request *http.Request) (a sender.Answer) {
	response, err := s.client.Do(request)
	if err != nil {
		return sender.Answer{Detail: err.Error()}
	}
	defer response.Body.Close()
	a.Status = response.StatusCode
	// The rest is missing if the ingress has ended meanwhile. The sender relies on
	// the status alone.
	if text, err := io.ReadAll(response.Body); err == nil {
		_ = json.Unmarshal(text, &a)
	}
	return a
}

// awaitAccepted waits until n more events are accepted.
func (s *storm) awaitAccepted(t testing.TB, n int) {
	t.Helper()
	before := s.countAccepted()
	embeddedtest.Await(t, fmt.Sprintf("%d more webhooks accepted", n), func() bool { return s.countAccepted() >= before+n })
}

func (s *storm) countAccepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// awaitRefused waits until a webhook is answered 503.
func (s *storm) awaitRefused(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	from := len(s.history)
	s.mu.Unlock()
	embeddedtest.Await(t, "a webhook refused", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for ; from < len(s.history); from++ {
			if s.history[from].answer.Status == http.StatusServiceUnavailable {
				return true
			}
		}
		return false
	})
}
