package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
)

// INGRESS_MAX_AGE removes what the hub has, and nothing else, even if the stream had a
// maximum age before. The removal is no loss.
func TestForwardMaxAge(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	age := func(s *config.Settings) { s.MaxAge = time.Second }
	before := newSettings(t)
	before.MaxAge = time.Hour
	run(t, before).Stop()
	e := startEdge(t, h, age, func(s *config.Settings) { s.DataDir = before.DataDir })
	e.link.sever()
	var sent []string
	for i := range 5 {
		sent = append(sent, e.send(t, fmt.Sprint("msg_", i)))
	}
	embeddedtest.Await(t, "the oldest is older than INGRESS_MAX_AGE", func() bool {
		return strings.Contains(e.metric("versive_ingress_forward_oldest_pending_seconds"), `{stream="VERSIVE"} 3`)
	})
	if have := idsIn(t, e.js, "VERSIVE"); len(have) != 5 {
		t.Errorf("the edge has %v", have)
	}
	e.link.restore()
	awaitIDs(t, h.js, "VERSIVE", sent...)
	awaitIDs(t, e.js, "VERSIVE")
	sent = append(sent, e.send(t, "msg_5"))
	awaitIDs(t, h.js, "VERSIVE", sent...)
	awaitIDs(t, e.js, "VERSIVE")
	e.Stop()
	losses, _, err := publish.ReadLosses(e.settings.DataDir)
	if err != nil || len(losses) > 0 {
		t.Errorf("losses: %v, %v", losses, err)
	}
}

// An edge whose store is full refuses webhooks and reports what they wait for. It takes
// them again when the hub has confirmed what has reached the maximum age.
func TestForwardFullStore(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	e := startEdge(t, h, func(s *config.Settings) {
		s.MaxAge = time.Second
		s.MaxStore = 4 << 20
	})
	e.link.sever()
	body := []byte(strings.Replace(string(sample), `"transcript": "..."`, `"transcript": "`+strings.Repeat("word ", 20<<10)+`"`, 1))
	accepted := 0
	for ; ; accepted++ {
		if a := e.post(t, fmt.Sprint("msg_", accepted), body); a.Status == 503 {
			break
		} else if a.Status != 200 {
			t.Fatalf("%v", a)
		}
	}
	embeddedtest.Await(t, "the log has the reason", func() bool {
		if a := e.post(t, fmt.Sprint("msg_", accepted), body); a.Status == 200 { // it was refused for another reason before
			accepted++
		}
		return strings.Contains(e.log.String(), fmt.Sprintf("; %d messages wait for the hub", accepted))
	})
	e.link.restore()
	embeddedtest.Await(t, "the hub has all", func() bool { return len(headersIn(t, h.js, "VERSIVE")) == accepted })
	embeddedtest.Await(t, "the webhook is accepted", func() bool { return e.post(t, fmt.Sprint("msg_", accepted), body).Status == 200 })
	embeddedtest.Await(t, "the hub has that too", func() bool { return len(headersIn(t, h.js, "VERSIVE")) == accepted+1 })
}
