package main

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"versive-ingress/publish/embedded/embeddedtest"
)

var (
	slowLink  = flag.Int("forward.rate", 320<<10, "bytes a second of the link of TestForwardSlowLink")
	slowEvent = flag.Int("forward.event", 3<<20, "bytes of the large event of TestForwardSlowLink")
)

// A large event passes a slow link, in one transfer and without a loss of the connection,
// and so does a backlog of small ones. Their order is kept.
func TestForwardSlowLink(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	link := newSlowProxy(t, h.cfg.Listen, *slowLink)
	link.sever()
	e := runEdge(t, edgeSettings(t, link), link)
	body := func(size int) []byte {
		return []byte(strings.Replace(string(sample), `"transcript": "..."`, `"transcript": "`+strings.Repeat("word ", size/5)+`"`, 1))
	}
	var sent []string
	size := 0
	send := func(n, bytes int) {
		for range n {
			id := fmt.Sprint("msg_", len(sent))
			if a := e.post(t, id, body(bytes)); a.Status != 200 {
				t.Fatal(a)
			}
			sent, size = append(sent, id), size+bytes
		}
	}
	send(20, 8<<10)
	send(1, *slowEvent)
	send(20, 8<<10)
	began := time.Now()
	link.restore()
	embeddedtest.Await(t, "all is at the hub", func() bool { return len(idsIn(t, h.js, "VERSIVE")) == len(sent) })
	t.Logf("%d events, %d KiB in %v; %d KiB were sent", len(sent), size>>10, time.Since(began), link.uploaded.Load()>>10)
	if !e.inOrder(t, h) {
		t.Error("the hub does not have each event once, in order")
	}
	if link.uploaded.Load() > int64(size)*3/2 {
		t.Error("something was sent more than once")
	}
	if log := e.log.String(); strings.Contains(log, "is down") || strings.Contains(log, "has not confirmed") {
		t.Errorf("the link is slow, and not down:\n%s", log)
	}
}
