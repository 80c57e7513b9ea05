package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A place is where a message is stored.
type place struct {
	stream   string
	sequence uint64
}

// check holds the history against both streams, read as a whole:
//
//   - what was answered 2xx is stored, once, where the answer claims;
//   - what is authentic was accepted in the end, for the faults are over;
//   - nothing else is stored, and nothing twice;
//   - every answer came within the sender's timeout, and was one of those
//     that the contract has for it.
func (r *round) check(js jetstream.JetStream, stream string) {
	r.Helper()
	last := make(map[string]uint64) // by stream, of what was answered
	for _, a := range r.storm.history {
		if a.answer.Accepted() && !r.storm.alone {
			last[a.answer.Stream] = max(last[a.answer.Stream], a.answer.Sequence)
		}
	}
	stored := make(map[string][]place)
	for _, kind := range []schema.Kind{schema.KindEvent, schema.KindQuarantine} {
		var messages map[uint64]jetstream.Msg
		var err error
		for deadline := time.Now().Add(embeddedtest.Timeout); ; time.Sleep(100 * time.Millisecond) {
			// A cluster may still be without somebody to ask.
			if messages, err = readWhole(r.Context(), js, kind.Stream(stream), last[kind.Stream(stream)]); err == nil || time.Now().After(deadline) {
				break
			}
		}
		if err != nil {
			r.Fatalf("reading %s: %v", kind.Stream(stream), err)
		}
		for sequence, msg := range messages {
			if r.storm.erases && schema.IsTombstone(msg.Headers()) {
				continue
			}
			id := msg.Headers().Get(jetstream.MsgIDHeader)
			if kind == schema.KindQuarantine && schema.IsSettled(msg.Headers()) { // what remains of a requeued webhook
				continue
			}
			if kind == schema.KindEvent {
				event, err := schema.Decode(msg.Headers(), msg.Data())
				if err != nil || event.ID != id {
					r.Errorf("%q cannot be decoded, or is another: %q, %v", id, event.ID, err)
				}
				id = event.ID
			}
			stored[id] = append(stored[id], place{kind.Stream(stream), sequence})
			if msg.Headers().Get(jetstreamext.BatchIDHeader) != "" {
				r.storm.batched++
			}
		}
	}

	type fate struct {
		kind     kind
		accepted bool
	}
	fates := make(map[string]fate)
	for _, a := range r.storm.history {
		f := fates[a.id]
		f.kind = a.kind
		f.accepted = f.accepted || a.answer.Accepted()
		fates[a.id] = f
		r.checkAnswer(a, stored[a.id])
	}
	for id, f := range fates {
		at := stored[id]
		switch {
		case !f.kind.authentic() && len(at) > 0:
			r.storm.forgedStored++
			r.Errorf("%s is not authentic, and stored: %v", id, at)
		case f.kind.authentic() && !f.accepted:
			r.Errorf("%s was never accepted; stored: %v", id, at)
		case f.kind.authentic() && len(at) == 0:
			r.storm.missing++
			r.Errorf("%s was accepted, and is missing", id)
		case len(at) > 1:
			r.storm.twice++
			r.Errorf("%s is stored more than once: %v", id, at)
		}
	}
	for id, at := range stored {
		if _, sent := fates[id]; !sent {
			r.Errorf("%s was never sent, and is stored: %v", id, at)
		}
	}
}

// checkAnswer checks one answer by itself.
func (r *round) checkAnswer(a attempt, stored []place) {
	r.Helper()
	got := a.answer
	if a.took >= config.SenderTimeout {
		r.Errorf("%s: an answer took %v", a.id, a.took)
	}
	switch {
	case got.Status == 0, got.Status == http.StatusServiceUnavailable, slices.Contains(r.storm.allowed, got.Status):
	case !a.kind.authentic():
		if got.Status != http.StatusUnauthorized {
			r.Errorf("%s is not authentic, and was answered %v", a.id, got)
		}
	case a.kind == unknown && got.Status == http.StatusAccepted:
	case a.kind == understood && got.Status == http.StatusOK:
		if got.Sequence != 0 && !slices.Contains(stored, place{got.Stream, got.Sequence}) {
			r.Errorf("%s was answered %v; stored: %v", a.id, got, stored)
		}
	default:
		r.Errorf("%s was answered %v", a.id, got)
	}
}

// readWhole returns what is in a stream, by sequence, when it has come as far
// as last: who has just become its leader may not have applied all yet.
func readWhole(ctx context.Context, js jetstream.JetStream, name string, last uint64) (map[uint64]jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, embeddedtest.Timeout/4)
	defer cancel()
	ask, cancel := context.WithTimeout(ctx, 5*time.Second) // without a leader nobody answers
	defer cancel()
	stream, err := js.Stream(ask, name)
	if err != nil {
		return nil, err
	}
	state := stream.CachedInfo().State
	if state.LastSeq < last {
		return nil, fmt.Errorf("it ends at %d, before %d", state.LastSeq, last)
	}
	// An ordered consumer would be created anew for each fetch, which takes a
	// busy cluster some milliseconds.
	consumer, err := stream.CreateConsumer(ask, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, Replicas: 1, MemoryStorage: true, InactiveThreshold: time.Minute})
	if err != nil {
		return nil, err
	}
	messages := make(map[uint64]jetstream.Msg)
	for all := int(state.Msgs); len(messages) < all; {
		// A batch, large bodies included, must fit into the client's buffer.
		batch, err := consumer.Fetch(min(all-len(messages), 6), jetstream.FetchContext(ctx))
		if err != nil {
			return nil, err
		}
		for msg := range batch.Messages() {
			metadata, err := msg.Metadata()
			if err != nil {
				return nil, err
			}
			messages[metadata.Sequence.Stream] = msg
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w; %d messages of %d", err, len(messages), all)
		}
	}
	return messages, nil
}

// counts are what rounds came to.
type counts struct {
	rounds, staged                                                          int
	events, requests, resends, fakes, hungUp, accepted, refused, unanswered int
	batched, missing, twice, forgedStored                                   int
	damage
	slowest time.Duration
}

// damage is what the faults of disks and processes must not do.
type damage struct {
	consumersLost int // durable consumers that are gone, or went back
	unread        int // events that a durable consumer was never given
	erasedBack    int // erasures whose content came back
	down          int // rounds that ended with an ingress that does not accept webhooks, and logs why
}

func (d *damage) add(e damage) {
	d.consumersLost += e.consumersLost
	d.unread += e.unread
	d.erasedBack += e.erasedBack
	d.down += e.down
}

func (c *counts) add(d counts) {
	c.rounds += d.rounds
	c.staged += d.staged
	c.events += d.events
	c.requests += d.requests
	c.resends += d.resends
	c.fakes += d.fakes
	c.hungUp += d.hungUp
	c.accepted += d.accepted
	c.refused += d.refused
	c.unanswered += d.unanswered
	c.batched += d.batched
	c.missing += d.missing
	c.twice += d.twice
	c.forgedStored += d.forgedStored
	c.damage.add(d.damage)
	c.slowest = max(c.slowest, d.slowest)
}

// counts sums up the history.
func (s *storm) counts() counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := counts{batched: s.batched, missing: s.missing, twice: s.twice, forgedStored: s.forgedStored, damage: s.damage, requests: len(s.history)}
	ids := make(map[string]bool)
	for _, a := range s.history {
		one := func(n *int, when bool) {
			if when {
				*n++
			}
		}
		if a.kind.authentic() && !ids[a.id] {
			ids[a.id] = true
			c.events++
		}
		one(&c.resends, a.again)
		one(&c.fakes, !a.kind.authentic())
		one(&c.hungUp, a.hungUp)
		one(&c.accepted, a.answer.Accepted())
		one(&c.refused, a.answer.Status == http.StatusServiceUnavailable)
		one(&c.unanswered, a.answer.Status == 0)
		if a.answer.Status != 0 {
			c.slowest = max(c.slowest, a.took)
		}
	}
	return c
}

// tableOf shows what all rounds came to, by fault.
func tableOf(results map[string]*counts) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nfault\trounds\tfaults\tevents\trequests\tresends\tforged\thung up\t2xx\t503\tno answer\tslowest\tin batches\tmissing\ttwice\tforged stored\tconsumers lost\tunread\terased back\tdown\t")
	row := func(name string, c *counts) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%v\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", name, c.rounds, c.staged, c.events, c.requests, c.resends,
			c.fakes, c.hungUp, c.accepted, c.refused, c.unanswered, c.slowest.Round(time.Millisecond), c.batched, c.missing, c.twice, c.forgedStored, c.consumersLost, c.unread, c.erasedBack, c.down)
	}
	var total counts
	for _, name := range slices.Sorted(maps.Keys(results)) {
		row(name, results[name])
		total.add(*results[name])
	}
	row("all", &total)
	w.Flush()
	return text.String()
}
