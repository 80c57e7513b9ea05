package main

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
)

// erase erases every twentieth event, in turn at the site and at the hub, if that has it
// when a hundred more were sent.
func (f *federation) erase(t *testing.T, sent *atomic.Int64) {
	for n := int64(20); n+100 < int64(*forwardEvents); n += 20 {
		f.await("enough are sent", func() bool { return sent.Load() > n+100 })
		id, address := fmt.Sprintf("msg_%d", n), f.siteAddress(t)
		if n%40 == 0 {
			address = f.configs[n/40%3].Listen
		}
		f.mu.Lock()
		there := slices.Contains(f.accepted[id], 1)
		f.mu.Unlock()
		if n%40 == 0 {
			stream, err := f.hub.js.Stream(t.Context(), "VERSIVE")
			if err == nil {
				_, err = stream.GetLastMsgForSubject(t.Context(), "versive.*.*.*.*."+id)
			}
			there = err == nil
		}
		if !there {
			continue
		}
		f.await("it is erased", func() bool {
			_, err := runCommand(t, "versive-ingress", withBroker(newSettings(t), address), "erase", "--interview", id, "--yes")
			return err == nil
		})
		f.mu.Lock()
		f.erased[id] = true
		f.mu.Unlock()
	}
}

// siteAddress returns the address of the first broker of the site.
func (f *federation) siteAddress(t *testing.T) string {
	return strings.Split(readText(t, f.edges[1].NATSConfig), "\"")[1]
}

// settle waits until all is forwarded, and compares the hub with the edges and the answers.
func (f *federation) settle(t *testing.T, lost map[string]bool) {
	for i := range f.edges {
		f.await("ready", func() bool { return f.ready(i) })
	}
	views := make([]*edge, 2)
	for i := range views {
		url := "nats://" + f.edges[0].NATSListen
		if i == 1 {
			url = "nats://" + f.siteAddress(t)
		}
		views[i] = &edge{system: &system{settings: f.edges[i]}, js: embeddedtest.Connect(t, url)}
	}
	f.await("nothing waits", func() bool { return views[0].pending(t)+views[1].pending(t) == 0 })
	time.Sleep(3 * time.Second) // for the next look at the streams
	f.await("nothing waits", func() bool { return views[0].pending(t)+views[1].pending(t) == 0 })

	erasedOn := func(js jetstream.JetStream) bool {
		for _, m := range headersIn(t, js, "VERSIVE") {
			if f.erased[m.ID] && !m.Erased() {
				return false
			}
		}
		return true
	}
	f.await("erasures are everywhere", func() bool { return erasedOn(views[0].js) && erasedOn(views[1].js) && erasedOn(f.hub.js) })
	for i, log := range f.logs {
		if strings.Contains(log.String(), "has lost messages") {
			t.Errorf("ingress %d reports a loss that was none", i)
		}
	}
	at := make(map[string][]int)
	for i, id := range idsIn(t, f.hub.js, "VERSIVE") {
		at[id] = append(at[id], i)
	}
	missing, twice := 0, 0
	var gone []string
	for id, edges := range f.accepted {
		switch {
		case len(at[id]) == 1:
		case len(at[id]) > 1:
			twice++
			t.Errorf("%s is at the hub %d times", id, len(at[id]))
		case lost[id] && !slices.Contains(edges, 1):
			gone = append(gone, id)
		default:
			missing++
			t.Errorf("%s was accepted by %v, and is not at the hub", id, edges)
		}
	}
	for i, e := range views { // an event that the other edge has forwarded earlier is there in the order of that one
		last, before := -1, ""
		for _, id := range idsIn(t, e.js, "VERSIVE") {
			if f.tried[id][1-i] || len(at[id]) != 1 || f.erased[id] {
				continue
			}
			if at[id][0] < last {
				t.Errorf("edge %d: %s is at the hub before %s", i, id, before)
			}
			last, before = at[id][0], id
		}
	}
	t.Logf("%d events, %d at the hub, %d erased, %d missing, %d twice; lost with the disk that was replaced by its copy: %d of %d", len(f.accepted), len(at), len(f.erased), missing, twice, len(gone), len(lost))
}
