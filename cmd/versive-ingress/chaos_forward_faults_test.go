package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// A disk is one of edge 0 that it has no longer.
type disk struct {
	cause   string
	ids     [2][]string     // of events and quarantined webhooks, in order
	waiting map[string]bool // ids that may not have been forwarded
}

// disturb stages faults while the events are sent: in the long form each at least once, in
// a random order.
func (f *federation) disturb() {
	// Each takes as long as pause, where it lasts.
	var pause time.Duration
	stages := []func(){
		func() { f.onLinks(func(link *proxy) func() { link.sever(); return link.restore }, pause) },
		func() { f.onLinks((*proxy).stall, pause) },
		func() {
			f.slow.Store(true)
			time.Sleep(pause)
			f.slow.Store(false)
		},
		func() {
			thaw := freeze(f, f.servers[f.random.IntN(len(f.servers))])
			time.Sleep(pause)
			thaw()
		},
		func() { f.bounce(f.random.IntN(len(f.servers))) },
		f.bounceLeader,
		func() { f.restart(1 + f.random.IntN(3)) },
		f.restartForwarder,
		func() { f.restart(0) },
	}
	for range *forwardEvents/4000 - 4 {
		stages = append(stages, stages[f.random.IntN(9)])
	}
	if !f.long {
		f.random.Shuffle(len(stages), func(i, j int) { stages[i], stages[j] = stages[j], stages[i] })
		stages = stages[:3]
	}
	stages = append(stages, f.wipeMember)
	f.random.Shuffle(len(stages), func(i, j int) { stages[i], stages[j] = stages[j], stages[i] })

	// The disk of edge 0 is copied, replaced by the copy, and lost.
	var older string
	for i, stage := range []func(){
		func() {
			f.replaceDisk("", func(dir string) string {
				older = f.TempDir()
				if err := os.CopyFS(older, os.DirFS(dir)); err != nil {
					f.Fatal(err)
				}
				return dir
			})
		},
		func() { f.replaceDisk("restored", func(string) string { return older }) },
		func() { f.replaceDisk("wiped", func(string) string { return f.TempDir() }) },
	} {
		at := i*len(stages)/3 + f.random.IntN(len(stages)/3)
		stages = slices.Insert(stages, at, stage)
	}

	// Two portions of the events are sent while a stage takes place.
	portion := int64(*forwardEvents/len(stages)) + 1
	for i, stage := range stages {
		f.quota.Store(int64(i+2) * portion)
		f.await("the next portion is sent", func() bool { return f.begun.Load() >= min(int64(i)*portion, int64(*forwardEvents)) })
		pause = time.Duration(100+f.random.IntN(300)) * time.Millisecond
		if f.long {
			pause = time.Duration(500+f.random.IntN(2500)) * time.Millisecond
		}
		stage()
		f.staged++
	}
	f.quota.Store(int64(*forwardEvents))
}

// onLinks does something to all links of an edge for a while. do returns what undoes it.
func (f *federation) onLinks(do func(*proxy) func(), pause time.Duration) {
	f.linking.Lock()
	defer f.linking.Unlock()
	for _, link := range f.linksOf(f.random.IntN(2)) {
		defer do(link)()
	}
	time.Sleep(pause)
}

// linksOf returns the links of an edge, or of both if it is -1.
func (f *federation) linksOf(edge int) []*proxy {
	switch edge {
	case 0:
		return f.links[:3]
	case 1:
		return f.links[3:]
	}
	return f.links
}

func (f *federation) bounce(server int) {
	kill(f.servers[server])
	f.servers[server] = launchBroker(f, f.configs[server])
}

// bounceLeader kills the leader of the hub's stream, after the window.
func (f *federation) bounceLeader() {
	time.Sleep(f.window)
	var server int
	f.await("the hub's stream has a leader", func() bool {
		stream, err := f.hub.js.Stream(f.Context(), "VERSIVE")
		if err != nil || stream.CachedInfo().Cluster == nil {
			return false
		}
		_, err = fmt.Sscanf(stream.CachedInfo().Cluster.Leader, "hub-%d", &server)
		return err == nil
	})
	f.bounce(server)
}

func (f *federation) restart(i int) {
	kill(f.programs[i])
	f.launch(i)
}

// restartForwarder kills the ingress of the site that forwards its events.
func (f *federation) restartForwarder() {
	js := embeddedtest.Connect(f, f.siteURL())
	defer js.Conn().Close()
	var i int
	f.await("the site's consumer has a leader", func() bool {
		consumer, err := js.Consumer(f.Context(), "VERSIVE", forward.Consumer)
		if err != nil || consumer.CachedInfo().Cluster == nil {
			return false
		}
		_, err = fmt.Sscanf(consumer.CachedInfo().Cluster.Leader, "site-%d", &i)
		return err == nil
	})
	f.restart(i)
}

// wipeMember takes the disk of an ingress of the site. The others have all that it had, and
// it must not vote before they agree on that.
func (f *federation) wipeMember() {
	js := embeddedtest.Connect(f, f.siteURL())
	defer js.Conn().Close()
	whole := func(members int) {
		f.Helper()
		f.await("the site is whole", func() bool {
			for i := range f.ingresses[1:] {
				if members == 3 && !f.ready(1+i) {
					return false
				}
			}
			return current(f.Context(), js, "VERSIVE", members) && current(f.Context(), js, "VERSIVE_QUARANTINE", members)
		})
	}
	whole(3)
	i := 1 + f.random.IntN(3)
	kill(f.programs[i])
	whole(2)
	if err := os.RemoveAll(f.ingresses[i].DataDir); err != nil {
		f.Fatal(err)
	}
	f.launch(i)
	whole(3)
}

// wipeServer takes the disk of a server of the hub, as wipeMember does.
func (f *federation) wipeServer(i int) {
	whole := func(servers int) {
		f.Helper()
		f.await("the hub is whole", func() bool {
			return current(f.Context(), f.hub.js, "VERSIVE", servers) && current(f.Context(), f.hub.js, "VERSIVE_QUARANTINE", servers)
		})
	}
	whole(3)
	kill(f.servers[i])
	whole(2)
	if err := os.RemoveAll(f.configs[i].Dir); err != nil {
		f.Fatal(err)
	}
	f.servers[i] = launchBroker(f, f.configs[i])
	whole(3)
}

// current reports whether so many members of a cluster have all of a stream.
func current(ctx context.Context, js jetstream.JetStream, name string, members int) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if err != nil || stream.CachedInfo().Cluster == nil || stream.CachedInfo().Cluster.Leader == "" {
		return false
	}
	n := 1
	for _, p := range stream.CachedInfo().Cluster.Replicas {
		if p.Current && !p.Offline {
			n++
		}
	}
	return n >= members
}

// replaceDisk kills edge 0, and starts it with the data directory that replace returns. It
// keeps a record of the disk if that is another one.
func (f *federation) replaceDisk(cause string, replace func(dir string) string) {
	kill(f.programs[0])
	before := f.ingresses[0].DataDir
	func() {
		f.alone.Lock() // no answer is on its way
		defer f.alone.Unlock()
		f.ingresses[0].DataDir = replace(before)
		if cause != "" {
			f.number++
		}
		f.launch(0)
	}()
	if cause != "" {
		f.disks = append(f.disks, f.examine(cause, before))
		if err := os.RemoveAll(before); err != nil {
			f.Fatal(err)
		}
	}
}

// examine reads a disk of edge 0.
func (f *federation) examine(cause, dir string) disk {
	broker := embeddedtest.StartBroker(f, embedded.Config{Dir: dir})
	defer broker.Stop()
	js := embeddedtest.Connect(f, broker.URL())
	defer js.Conn().Close()
	d := disk{cause: cause, waiting: make(map[string]bool)}
	for kind, name := range []string{"VERSIVE", "VERSIVE_QUARANTINE"} {
		consumer, err := js.Consumer(f.Context(), name, forward.Consumer)
		if err != nil {
			f.Fatal(err)
		}
		for _, m := range headersIn(f, js, name) {
			d.ids[kind] = append(d.ids[kind], m.ID)
			d.waiting[m.ID] = m.Sequence > consumer.CachedInfo().AckFloor.Stream
		}
	}
	return d
}

// plan chooses the events that are erased: among the first two thirds, in turn at edge 0,
// at the site and at the hub, with the links up and cut.
func (f *federation) plan() {
	count := max(6, *forwardEvents/2000)
	for k := range count {
		n := 1 + k**forwardEvents*2/3/count
		if quarantined(fmt.Sprintf("msg_%d", n)) {
			n++
		}
		f.erasures[fmt.Sprintf("msg_%d", n)] = &plannedErasure{edge: k%3 - 1, cut: k/3%2 == 1}
	}
}

// atHub returns the settings of a command that is run at the hub.
func (f *federation) atHub() config.Settings {
	return config.Settings{NATSURL: f.hubURL()}
}

func subjectOf(id string) string { return "versive.interview.completed.study_123." + id + "." + id }

// erase erases what is planned, in the order in which it is sent.
func (f *federation) erase() {
	for n := range *forwardEvents {
		id := fmt.Sprintf("msg_%d", n)
		e := f.erasures[id]
		if e == nil {
			continue
		}
		for there := false; !there && !f.Failed(); time.Sleep(20 * time.Millisecond) {
			f.mu.Lock()
			there = e.accepted > 0
			f.mu.Unlock()
			if there && e.edge < 0 {
				ctx, cancel := context.WithTimeout(f.Context(), 2*time.Second)
				stream, err := f.hub.js.Stream(ctx, "VERSIVE")
				if err == nil {
					_, err = stream.GetLastMsgForSubject(ctx, subjectOf(id))
				}
				there = err == nil
				cancel()
			}
		}
		f.eraseEvent(id, e)
	}
}

func (f *federation) eraseEvent(id string, e *plannedErasure) {
	if e.cut {
		f.linking.Lock()
		defer f.linking.Unlock()
		for _, link := range f.linksOf(e.edge) {
			link.sever()
			defer link.restore()
		}
	}
	for attempts, found := 0, 0; !f.Failed(); attempts++ {
		out, on, err := f.tryErase(id, e, attempts)
		if strings.Contains(out, "found of") {
			found = on
		}
		f.mu.Lock()
		switch {
		case err == nil && found == on:
			e.erased = on
		case e.edge == 0 && e.accepted != on && found != on: // it was on a disk that is no longer there
			err = nil
		case err == nil:
			err = fmt.Errorf("nothing is found")
		}
		f.mu.Unlock()
		if err == nil {
			return
		}
		if attempts == 2000 {
			f.Errorf("erasing %s at %d: %v\n%s", id, e.edge, err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (f *federation) tryErase(id string, e *plannedErasure, attempts int) (out string, on int, err error) {
	s := f.atHub()
	on = 1
	switch e.edge {
	case 0:
		f.alone.RLock()
		defer f.alone.RUnlock()
		s, on = f.ingresses[0], f.number+1
	case 1:
		s = f.ingresses[1+attempts%3]
	}
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second) // it waits for a broker that was killed
	defer cancel()
	cmd := exec.CommandContext(ctx, "versive-ingress", "erase", "--interview", id, "--yes")
	cmd.Env = append(cmd.Environ(), environment(s)...)
	text, err := cmd.CombinedOutput()
	return string(text), on, err
}
