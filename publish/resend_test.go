package publish_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A message that makes the stream reject a whole batch does not affect the others.
func TestBatchWithOffenders(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(t *testing.T, js jetstream.JetStream, cfg publish.Config, m schema.Message){
		// Another ingress publishes it, so that the id is unknown to this one.
		"id in the window": func(t *testing.T, _ jetstream.JetStream, cfg publish.Config, m schema.Message) {
			if _, err := openPublisher(t, cfg).Publish(t.Context(), m); err != nil {
				t.Error(err)
			}
		},
		"subject beyond the window": func(t *testing.T, js jetstream.JetStream, _ publish.Config, m schema.Message) {
			msg := &nats.Msg{Subject: m.Subject("versive"), Data: m.Data, Header: nats.Header{}}
			if _, err := js.PublishMsg(t.Context(), msg); err != nil {
				t.Error(err)
			}
		},
		// A look-up by subject does not find it, only the duplicate window does.
		"id under another subject": func(t *testing.T, js jetstream.JetStream, _ publish.Config, m schema.Message) {
			if _, err := js.Publish(t.Context(), "versive.other", nil, jetstream.WithMsgID(m.ID)); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartBroker(t, embedded.Config{})
			js := embeddedtest.Connect(t, broker.URL())
			cfg := config(broker.URL())
			p := openPublisher(t, cfg)
			messages := events(t, 0, 300)
			offender := messages[42]
			store(t, js, cfg, offender)

			fresh := 0
			sequences := map[uint64]bool{}
			for _, o := range publishAll(t, p, messages) {
				if o.err != nil {
					t.Errorf("%s: %v", o.id, o.err)
				}
				if o.receipt.Duplicate != (o.id == offender.ID) || o.receipt.Duplicate && o.receipt.Sequence != 1 {
					t.Errorf("%s: got %+v", o.id, o.receipt)
				}
				if !o.receipt.Duplicate {
					fresh++
				}
				sequences[o.receipt.Sequence] = true
			}
			if n := len(stored(t, js, "VERSIVE")); fresh != 299 || n != 300 || len(sequences) != 300 {
				t.Errorf("%d were new, %d are stored at %d sequences", fresh, n, len(sequences))
			}
		})
	}
}

// Resends of messages in flight and of stored messages are mixed with new ones.
func TestBatchWithResends(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	p, other := openPublisher(t, config(broker.URL())), openPublisher(t, config(broker.URL()))
	var outcomes []outcome
	fresh := 0
	for round := range 5 {
		messages := events(t, round*150, 200) // 50 are resent in the next round
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, by := range []*publish.Publisher{p, p, other} {
			wg.Go(func() {
				got := publishAll(t, by, messages)
				mu.Lock()
				defer mu.Unlock()
				outcomes = append(outcomes, got...)
			})
		}
		wg.Wait()
	}
	if fresh = checkStored(t, js, outcomes); fresh != 800 {
		t.Errorf("%d were new, want 800", fresh)
	}
	if n := batched(t, js); n < 100 {
		t.Errorf("only %d messages were stored in batches", n)
	}
}

// A resend is recognized by its id, without sending its data to the broker again.
func TestResendIsRecognized(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	p := openPublisher(t, config(broker.URL()))
	written, err := js.Conn().SubscribeSync("versive.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	for i, empty := range []bool{false, true} {
		receipt, err := p.Publish(t.Context(), event(t, "msg_1"))
		if want := (schema.Receipt{Stream: "VERSIVE", Sequence: 1, Duplicate: i > 0}); err != nil || receipt != want {
			t.Errorf("got %+v, %v; want %+v", receipt, err, want)
		}
		m, err := written.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if (len(m.Data) == 0) != empty {
			t.Errorf("attempt %d: %d bytes were sent to the broker", i+1, len(m.Data))
		}
	}
	if n := len(stored(t, js, "VERSIVE")); n != 1 {
		t.Errorf("the stream holds %d messages, want 1", n)
	}
}

// A message that was sent before and is not in the stream is stored.
func TestResendIsMissing(t *testing.T) {
	t.Parallel()
	resendToNewStream(t, config(embeddedtest.StartBroker(t, embedded.Config{}).URL()))
}

// resendToNewStream resends an event to a stream that was deleted and recreated.
func resendToNewStream(t *testing.T, cfg publish.Config) {
	t.Helper()
	cfg.Mode, cfg.Stream, cfg.Subject = publish.ModeBatch, "NEW", "new"
	p := openPublisher(t, cfg)
	if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Fatal(err)
	}
	if err := embeddedtest.Connect(t, cfg.URL).DeleteStream(t.Context(), cfg.Stream); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"msg_1", "msg_2"} {
		var receipt schema.Receipt
		embeddedtest.Await(t, id+" is stored", func() (ok bool) {
			var err error
			receipt, err = p.Publish(t.Context(), event(t, id))
			return err == nil
		})
		receipt.Duplicate = false // an earlier attempt may have stored it without an answer
		if want := (schema.Receipt{Stream: cfg.Stream, Sequence: uint64(i + 1)}); receipt != want {
			t.Errorf("%s: got %+v, want %+v", id, receipt, want)
		}
	}
}
