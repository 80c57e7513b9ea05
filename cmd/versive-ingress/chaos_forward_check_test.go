package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// settle waits until all is forwarded, and compares the hub with the edges and the answers.
func (f *federation) settle() {
	f.awaitReady()
	places := []jetstream.JetStream{embeddedtest.Connect(f, "nats://"+f.ingresses[0].NATSListen), embeddedtest.Connect(f, f.siteURL()), f.hub.js}
	f.awaitForwarded(places[:2])
	f.repeatErasures()
	for _, js := range places {
		f.awaitErased(js)
	}
	f.awaitGone()
	f.resend()
	f.awaitForwarded(places[:2])
	f.awaitGone()
	for _, js := range places {
		f.awaitErased(js)
	}
	for i, log := range f.logs {
		if strings.Contains(log.String(), "has lost messages") {
			f.Errorf("ingress %d reports a loss that was none", i)
		}
	}
	for _, s := range []config.Settings{f.ingresses[0], f.ingresses[1], f.atHub()} {
		if out, err := runCommand(f.T, "versive-ingress", s, "audit"); err != nil {
			f.Errorf("audit: %v\n%s", err, out)
		}
	}
	f.compare(places)
}

// awaitForwarded waits until nothing waits at the edges.
func (f *federation) awaitForwarded(edges []jetstream.JetStream) {
	f.Helper()
	f.await("nothing waits", func() bool {
		for _, js := range edges {
			for kind := range schema.Kinds {
				status, err := forward.ReadStatus(f.Context(), js, kind.Stream("VERSIVE"))
				if err != nil || status.Pending > 0 {
					return false
				}
			}
		}
		return true
	})
}

// repeatErasures repeats at the hub what was erased at edge 0 and waited on a disk that it
// no longer has.
func (f *federation) repeatErasures() {
	for id, e := range f.erasures {
		if e.edge != 0 || e.erased == 0 || e.erased > len(f.disks) || !f.disks[e.erased-1].waiting[id] {
			continue
		}
		var err error
		f.await("the hub answers", func() bool {
			err = isErased(f.Context(), f.hub.js, id)
			return err == nil || errors.Is(err, errNotErased)
		})
		if err == nil {
			continue
		}
		f.Logf("the erasure of %s was lost with a disk, and is repeated at the hub", id)
		if out := must(f.T, f.atHub(), "erase", "--interview", id, "--yes"); !strings.Contains(out, "found of") {
			e.erased = 0 // its event was lost as well
		}
	}
}

// awaitErased waits until a place has a tombstone, and nothing else, of each erased event.
func (f *federation) awaitErased(js jetstream.JetStream) {
	f.Helper()
	for id, e := range f.erasures {
		if e.erased == 0 {
			continue
		}
		var last error
		defer func() {
			if last != nil {
				f.Logf("%s: %v", id, last)
			}
		}()
		f.await("an event is erased everywhere", func() bool {
			last = isErased(f.Context(), js, id)
			return last == nil
		})
	}
}

var errNotErased = errors.New("it is not erased")

func isErased(ctx context.Context, js jetstream.JetStream, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, "VERSIVE")
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subjectOf(id)))
	if err != nil {
		return err
	}
	if n := info.State.Subjects[subjectOf(id)]; n != 1 {
		return fmt.Errorf("%w: %d messages on its subject", errNotErased, n)
	}
	m, err := stream.GetLastMsgForSubject(ctx, subjectOf(id))
	if err == nil && len(m.Data) > 0 {
		err = errNotErased
	}
	return err
}

// awaitGone waits until no disk has content of erased events. A server of a cluster that was
// away deletes without overwriting, if it gets the end of a stream from the others. An
// ingress notices that, and overwrites it at its next start; a NATS server must get all of
// its store from the others.
func (f *federation) awaitGone() {
	f.Helper()
	began, list := time.Now(), []string(nil)
	defer func() {
		if f.Failed() {
			f.Logf("content of erased events: %v", list)
		}
	}()
	left := func(dir string) bool {
		return slices.ContainsFunc(list, func(file string) bool { return strings.HasPrefix(file, dir+"/") && strings.Contains(file, "/streams/") })
	}
	f.await("erased content is on no disk", func() bool {
		list = f.remains()
		for i, s := range f.ingresses {
			if left(s.DataDir) && strings.Contains(f.logs[i].String(), "content of erased messages is in block files") {
				f.Logf("ingress %d has noticed that it has content of erased events, and is restarted", i)
				f.restart(i)
				f.awaitReady()
			}
		}
		for i, c := range f.configs {
			if left(c.Dir) && time.Since(began) > 20*time.Second {
				f.Logf("server %d of the hub has content of erased events, and is given an empty disk", i)
				f.wipeServer(i)
			}
		}
		if len(list) > 0 && f.long {
			time.Sleep(5 * time.Second)
		}
		return len(list) == 0
	})
}

// remains returns the files that have content of erased events. The servers of a cluster
// compact their logs when a few minutes or 8 MiB have passed, so only the long form reads
// these.
func (f *federation) remains() (list []string) {
	var dirs []string
	for _, s := range f.ingresses {
		dirs = append(dirs, s.DataDir)
	}
	for _, c := range f.configs {
		dirs = append(dirs, c.Dir)
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && (!d.Type().IsRegular() || !f.long && strings.Contains(path, "_js_")) {
				return nil
			}
			var text []byte
			if err == nil {
				text, err = os.ReadFile(path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			for i := bytes.Index(text, []byte(content)); i >= 0; i = bytes.Index(text, []byte(content)) {
				text = text[i+len(content):]
				id, _, _ := bytes.Cut(text[:min(len(text), 20)], []byte(";"))
				if e := f.erasures[string(id)]; e != nil && e.erased > 0 {
					list = append(list, path+": "+string(id))
				}
			}
			return err
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	return list
}

// resend resends what was erased to each ingress and to the hub.
func (f *federation) resend() {
	for id, e := range f.erasures {
		if e.erased == 0 {
			continue
		}
		for i := range f.senders {
			f.await("a resend is answered", func() bool {
				answer, err := f.senders[i].Post(f.Context(), id, time.Now(), f.body(id))
				if err == nil && answer.Accepted() && answer.Outcome != "duplicate" {
					f.Errorf("a resend of %s, which was erased, to ingress %d: %v", id, i, answer)
				}
				return err == nil && answer.Accepted()
			})
		}
		var api *jetstream.APIError
		_, err := f.hub.js.PublishMsg(f.Context(), &nats.Msg{Subject: subjectOf(id), Data: f.body(id)},
			jetstream.WithMsgID(id), jetstream.WithExpectLastSequencePerSubject(0), jetstream.WithRetryAttempts(10))
		if !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
			f.Errorf("a resend of %s, which was erased, to the hub: %v", id, err)
		}
	}
}

// compare compares what the places have with the answers.
func (f *federation) compare(places []jetstream.JetStream) {
	var have [3][2][]string // by place, ids of events and quarantined webhooks
	at := make(map[string][]int)
	for i, js := range places {
		for kind, name := range []string{"VERSIVE", "VERSIVE_QUARANTINE"} {
			have[i][kind] = idsIn(f, js, name)
			for n, id := range have[i][kind] {
				if i == 2 {
					at[id] = append(at[id], n)
				}
			}
		}
	}
	missing, twice, unordered, erased, cost := 0, 0, 0, 0, make([]int, len(f.disks))
	for id, edges := range f.accepted {
		switch onDisk := slices.IndexFunc(f.disks, func(d disk) bool { return d.waiting[id] }); {
		case len(at[id]) == 1:
		case len(at[id]) > 1:
			twice++
			f.Errorf("%s is at the hub %d times", id, len(at[id]))
		case onDisk >= 0 && !slices.Contains(edges, 1):
			cost[onDisk]++
		default:
			missing++
			f.Errorf("%s was accepted by %v, and is not at the hub", id, edges)
		}
	}
	for _, e := range f.erasures {
		if e.erased > 0 {
			erased++
		}
	}
	// An event that was sent to both edges is in the order of one of them, and one that
	// was on another disk of the edge in the order of that, unless it waited there.
	earlier := make(map[string]bool)
	check := func(edge int, ids [2][]string, waiting map[string]bool) {
		for _, list := range ids {
			last, before := -1, ""
			for _, id := range list {
				if f.tried[id][1-edge] || len(at[id]) != 1 || f.erasures[id] != nil || waiting[id] || edge == 0 && earlier[id] {
					continue
				}
				if at[id][0] < last {
					unordered++
					f.Errorf("edge %d: %s is at the hub before %s", edge, id, before)
				}
				last, before = at[id][0], id
			}
		}
	}
	check(1, have[1], nil)
	for i, d := range f.disks {
		check(0, d.ids, d.waiting)
		for _, id := range slices.Concat(d.ids[:]...) {
			earlier[id] = true
		}
		waited := 0
		for _, waits := range d.waiting {
			if waits {
				waited++
			}
		}
		f.Logf("the disk that was %s has cost %d events, of %d that waited there", d.cause, cost[i], waited)
	}
	check(0, have[0], nil)
	f.Logf("%d accepted, %d at the hub, %d erased, %d missing, %d twice, %d out of order", len(f.accepted), len(at), erased, missing, twice, unordered)
}
