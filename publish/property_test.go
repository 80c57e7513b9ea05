package publish_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// rejections are error codes with which JetStream can reject a message.
var rejections = []int{
	10201, 10071, // reported as a duplicate
	10158, 10164, // another copy is in flight
	10077, 10023, // full
	10176, 10199, 10200, 10211, 10174, // invalid batches
	10003, // an unexpected one
}

// slow delays the first message, so that the others are batched.
var slow = []fault{{Delay: 10 * time.Millisecond}}

func faults() *rapid.Generator[fault] {
	return rapid.OneOf(
		rapid.Just(fault{}),
		rapid.Map(rapid.SampledFrom(rejections), func(code int) fault { return fault{Code: code} }),
		rapid.SampledFrom([]fault{
			{Lose: true},
			{Silent: true},
			{Part: true},
			{Twice: true},
			{Delay: 5 * time.Millisecond},
			{Garbage: true},
			{Mixed: true},
			{Cut: true},
			{Cut: true, Silent: true},
		}),
	)
}

// However the broker misbehaves, a message with a receipt is stored where the receipt
// states; no message is stored twice or new to two callers; every call returns in
// time; and once the broker behaves, publishing again succeeds.
func TestPublisherKeepsThePromise(t *testing.T) {
	t.Parallel()
	fake := startFake(t)
	rapid.Check(t, func(r *rapid.T) {
		fake.reset()
		cfg := config(fake.server.ClientURL())
		cfg.Mode = rapid.SampledFrom([]publish.Mode{publish.ModeBatch, publish.ModeBatch, publish.ModeSingle}).Draw(r, "mode")
		cfg.Timeout = 100 * time.Millisecond
		p, err := publish.Open(t.Context(), cfg)
		if err != nil {
			r.Fatal(err)
		}
		defer p.Close()

		var messages []schema.Message
		for range rapid.IntRange(1, 150).Draw(r, "messages") {
			n := rapid.IntRange(0, 150).Draw(r, "id") // some ids occur twice
			messages = append(messages, event(t, fmt.Sprintf("msg_%d", n)))
		}
		some := rapid.SliceOfN(faults(), 0, 5)
		fake.misbehave(slices.Concat(slow, some.Draw(r, "single")), some.Draw(r, "batch"), nil)

		started := time.Now()
		first := publishTo(p, messages)
		if took := time.Since(started); took > 20*time.Second {
			r.Errorf("took %v", took)
		}
		fake.misbehave(nil, nil, nil)
		var resent []outcome
		for deadline := time.Now().Add(embeddedtest.Timeout); len(messages) > 0; {
			if time.Now().After(deadline) {
				r.Fatalf("%d still fail", len(messages))
			}
			resent = append(resent, publishTo(p, messages)...)
			messages = slices.DeleteFunc(messages, func(m schema.Message) bool { return isStored(resent, m.ID) })
		}
		checkHistory(r, fake, append(first, resent...))
	})
	if fake.commits == 0 {
		t.Error("no batch was committed")
	}
}

// A message that the stream rejects does not make another one fail.
func TestOneMessageFailsAlone(t *testing.T) {
	t.Parallel()
	fake := startFake(t)
	rapid.Check(t, func(r *rapid.T) {
		fake.reset()
		cfg := config(fake.server.ClientURL())
		cfg.Mode = publish.ModeBatch
		p, err := publish.Open(t.Context(), cfg)
		if err != nil {
			r.Fatal(err)
		}
		defer p.Close()
		messages := events(t, 0, rapid.IntRange(1, 100).Draw(r, "messages"))
		cursed := map[string]int{}
		for range rapid.IntRange(0, 3).Draw(r, "cursed") {
			m := rapid.SampledFrom(messages).Draw(r, "one")
			// These codes are not retried.
			cursed[m.ID] = rapid.SampledFrom([]int{10201, 10077, 10023, 10003}).Draw(r, "code")
		}
		fake.misbehave(slow, nil, cursed)
		outcomes := publishTo(p, messages)
		for _, o := range outcomes {
			if failed := o.err != nil; failed != (cursed[o.id] != 0) {
				r.Errorf("%s: %v", o.id, o.err)
			}
		}
		checkHistory(r, fake, outcomes)
	})
	if fake.commits == 0 {
		t.Error("no batch was committed")
	}
}

// Messages that wait while a batch is lost have their full timeout.
func TestBatchIsNotPrepared(t *testing.T) {
	t.Parallel()
	fake := startFake(t)
	cfg := config(fake.server.ClientURL())
	cfg.Mode, cfg.Timeout = publish.ModeBatch, 2*time.Second
	embeddedtest.Await(t, "a batch is lost, and no late message is", func() bool { // a busy machine may need more than the remaining second for the late ones
		fake.reset()
		p := openPublisher(t, cfg)
		fake.misbehave([]fault{{Delay: cfg.Timeout / 4}}, []fault{{Lose: true}}, nil)
		early := make(chan []outcome)
		go func() { early <- publishTo(p, events(t, 0, 100)) }() // one message alone and a batch
		time.Sleep(cfg.Timeout / 2)
		failed := failures(publishTo(p, events(t, 100, 10)))
		return failures(<-early) > 0 && failed == 0
	})
}

// isStored reports whether there is a receipt for an id.
func isStored(outcomes []outcome, id string) bool {
	return slices.ContainsFunc(outcomes, func(o outcome) bool { return o.id == id && o.err == nil })
}

func failures(outcomes []outcome) (n int) {
	for _, o := range outcomes {
		if o.err != nil {
			n++
		}
	}
	return n
}

// publishTo is publishAll without a testing.T.
func publishTo(p *publish.Publisher, messages []schema.Message) []outcome {
	outcomes := make([]outcome, len(messages))
	var wg sync.WaitGroup
	for i, m := range messages {
		wg.Go(func() {
			receipt, err := p.Publish(context.Background(), m)
			outcomes[i] = outcome{m.ID, receipt, err}
		})
	}
	wg.Wait()
	return outcomes
}

func checkHistory(r *rapid.T, fake *fakeJetStream, outcomes []outcome) {
	ids := fake.ids()
	seen := map[string]bool{}
	for _, id := range ids {
		if seen[id] {
			r.Errorf("%s is stored twice", id)
		}
		seen[id] = true
	}
	fresh := map[string]int{}
	for _, o := range outcomes {
		if o.err != nil {
			continue
		}
		if s := o.receipt.Sequence; s < 1 || s > uint64(len(ids)) || ids[s-1] != o.id {
			r.Errorf("%s is not at %d", o.id, s)
		}
		if !o.receipt.Duplicate {
			fresh[o.id]++
		}
		if fresh[o.id] > 1 {
			r.Errorf("%s was new twice", o.id)
		}
	}
}
