package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
)

// A load is senders that post one webhook after another. What is refused is
// sent again until it is accepted, as the vendor does, only sooner.
type load struct {
	stop func() // returns when the last sender has its answer

	mu       sync.Mutex
	accepted map[string]uint64 // by id, the sequence that was answered
	refused  int               // 503
	lost     int               // no answer
	wrong    []string          // answers that must not be
}

// startLoad starts senders that pause between two webhooks: without it, a test that waits
// for something else would take the processor from all others.
func startLoad(t testing.TB, s config.Settings, senders int, pause time.Duration) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{accepted: make(map[string]uint64)}
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for ctx.Err() == nil {
				id := sender.NewID()
				for !l.post(s, id) && ctx.Err() == nil {
					time.Sleep(20 * time.Millisecond) // as Retry-After asks, only sooner
				}
				time.Sleep(pause)
			}
		})
	}
	l.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(l.stop)
	return l
}

// post reports whether the webhook was accepted.
func (l *load) post(s config.Settings, id string) bool {
	response, err := sender.Client.Do(signed("http://"+s.Listen+s.Path, s.Secrets[0], id, interview(id)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.lost++
		return false
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusOK:
		var a sender.Answer // stays 0 if the ingress ended meanwhile; accepted it is
		_ = json.NewDecoder(response.Body).Decode(&a)
		l.accepted[id] = a.Sequence
		return true
	case response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") != "":
		l.refused++
	default:
		l.wrong = append(l.wrong, id+": "+response.Status)
	}
	return false
}

// counts returns how many were accepted, refused and left without an answer.
func (l *load) counts() (accepted, refused, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted), l.refused, l.lost
}

// awaitAccepted waits until n more webhooks are accepted.
func (l *load) awaitAccepted(t testing.TB, n int) {
	t.Helper()
	before, _, _ := l.counts()
	embeddedtest.Await(t, fmt.Sprintf("%d more webhooks accepted", n), func() bool {
		now, _, _ := l.counts()
		return now >= before+n
	})
}

// check must be called after stop.
func (l *load) check(t testing.TB) {
	t.Helper()
	for _, w := range l.wrong {
		t.Error("neither accepted nor 503 with Retry-After:", w)
	}
}
