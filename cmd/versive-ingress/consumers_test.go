package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// store stores an event, which nobody has posted, and returns its sequence.
func store(t *testing.T, js jetstream.JetStream, id string) uint64 {
	t.Helper()
	m, err := schema.Normalize(id, interview(id))
	if err != nil {
		t.Fatal(err)
	}
	ack, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data})
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

// A journal has the sequences of the events that a consumer was given, in that order.
type journal struct {
	mu  sync.Mutex
	got []uint64
}

func (j *journal) add(sequence uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.got = append(j.got, sequence)
}

func (j *journal) from(n int) []uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.got[n:])
}

// While events are stored and read, a consumer is rewound several times. Each time it
// gets every event from the point on again, and none before it.
func TestRewindUnderLoad(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(*testing.T, jetstream.JetStream, *journal){
		"subscribe": func(t *testing.T, js jetstream.JetStream, j *journal) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				ended <- subscribe.Source{JetStream: js}.Consume(ctx, subscribe.Consumer{
					Durable: "reports", Concurrency: 8,
					Event: func(_ context.Context, _ schema.Event, m subscribe.Message) error {
						j.add(m.Sequence)
						return nil
					},
					Erasure: func(context.Context, schema.Subject, subscribe.Message) error { return nil },
				})
			}()
			t.Cleanup(func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		},
		"nats.go": func(t *testing.T, js jetstream.JetStream, j *journal) {
			durable, err := js.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy})
			if err != nil {
				t.Fatal(err)
			}
			reading, err := durable.Consume(func(m jetstream.Msg) {
				metadata, err := m.Metadata()
				if err != nil {
					t.Error(err)
					return
				}
				j.add(metadata.Sequence.Stream)
				_ = m.Ack() // in vain if it was delivered before a rewind
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				reading.Stop()
				<-reading.Closed()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			sys := run(t, s)
			js := embeddedtest.Connect(t, sys.BrokerURL())
			const before, during = 600, 1500
			for i := range before {
				store(t, js, fmt.Sprint("msg_", i))
			}
			var j journal
			reader, err := jetstream.New(embeddedtest.Connect(t, sys.BrokerURL()).Conn()) // with the default timeout
			if err != nil {
				t.Fatal(err)
			}
			read(t, reader, &j)
			await := func(what string, condition func(*jetstream.ConsumerInfo) bool) {
				t.Helper()
				embeddedtest.Await(t, what, func() bool {
					durable, err := js.Consumer(t.Context(), "VERSIVE", "reports")
					return err == nil && condition(durable.CachedInfo())
				})
			}
			acknowledged := func(n uint64) func(*jetstream.ConsumerInfo) bool {
				return func(info *jetstream.ConsumerInfo) bool { return info.AckFloor.Stream >= n }
			}
			await("the first events are acknowledged", acknowledged(before))

			var last uint64
			var mu sync.Mutex // guards last
			stored := func() uint64 {
				mu.Lock()
				defer mu.Unlock()
				return last
			}
			var writing sync.WaitGroup
			writing.Go(func() {
				for i := range during {
					sequence := store(t, js, fmt.Sprint("msg_during_", i))
					mu.Lock()
					last = sequence
					mu.Unlock()
				}
			})
			type rewind struct {
				first, last      uint64 // the point, and what was stored before
				begun, completed int    // the length of the journal
			}
			var rewinds []rewind
			for _, first := range []uint64{1, 500, 300} {
				embeddedtest.Await(t, "more is stored", func() bool { return stored() > uint64(before+100*len(rewinds)) })
				await("all before the point is acknowledged", acknowledged(first))
				r := rewind{first: first, last: stored(), begun: len(j.from(0))}
				must(t, s, "consumers", "rewind", "reports", "--first", fmt.Sprint(first), "--yes")
				r.completed = len(j.from(0))
				rewinds = append(rewinds, r)
			}
			writing.Wait()
			await("all is acknowledged", acknowledged(before+during))

			for i, r := range rewinds {
				end := len(j.from(0))
				if i+1 < len(rewinds) {
					end = rewinds[i+1].begun
				}
				count := make(map[uint64]int)
				for _, sequence := range j.from(r.begun) {
					count[sequence]++
				}
				for sequence := r.first; sequence <= r.last; sequence++ {
					if count[sequence] == 0 {
						t.Errorf("rewind to %d: event %d was not delivered again", r.first, sequence)
					}
				}
				for _, sequence := range j.from(0)[r.completed:end] {
					if sequence < r.first {
						t.Errorf("rewind to %d: event %d was delivered again", r.first, sequence)
					}
				}
			}
			all := j.from(0)
			slices.Sort(all)
			if distinct := slices.Compact(all); len(distinct) != before+during {
				t.Errorf("%d events were delivered, want %d", len(distinct), before+during)
			}
			t.Logf("%d deliveries, rewinds %+v", len(j.from(0)), rewinds)
		})
	}
}

// fetch receives all that a consumer has, acknowledges it except for some sequences, and
// returns the sequences.
func fetch(t *testing.T, js jetstream.JetStream, name string, except ...uint64) (sequences []uint64) {
	t.Helper()
	durable, err := js.Consumer(t.Context(), "VERSIVE", name)
	if err != nil {
		t.Fatal(err)
	}
	pending := int(durable.CachedInfo().NumPending)
	if pending == 0 {
		return nil
	}
	batch, err := durable.Fetch(pending)
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		metadata, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		sequences = append(sequences, metadata.Sequence.Stream)
		if !slices.Contains(except, metadata.Sequence.Stream) {
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := batch.Error(); err != nil {
		t.Fatal(err)
	}
	return sequences
}

// A rewind delivers what it has announced, of consumers of all kinds.
func TestRewind(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	sys := run(t, s)
	js := embeddedtest.Connect(t, sys.BrokerURL())
	for i := range 4 {
		store(t, js, fmt.Sprint("msg_", i))
	}
	began := time.Now() // after event 4
	start := began.Add(-time.Hour)
	cases := map[string]struct {
		config   jetstream.ConsumerConfig
		unacked  []uint64
		args     []string
		output   string
		want     []uint64 // received then
		recreate bool
	}{
		"all":               {args: []string{"--first", "1"}, output: "will receive 6 events again, from sequence 1 on,", want: []uint64{1, 2, 3, 4, 5, 6}},
		"some":              {args: []string{"--first", "5"}, output: "will receive 2 events again, from sequence 5 on,", want: []uint64{5, 6}},
		"time":              {args: []string{"--since", began.Format(time.RFC3339Nano)}, output: "will receive 2 events again, from sequence 5 on,", want: []uint64{5, 6}},
		"ago":               {args: []string{"--since", "1h"}, output: "will receive 6 events again, from sequence 1 on,", want: []uint64{1, 2, 3, 4, 5, 6}},
		"beyond":            {args: []string{"--first", "1000"}, output: "there is nothing to deliver to consumer beyond again"},
		"unacknowledged":    {unacked: []uint64{3, 5}, args: []string{"--first", "4"}, output: "has not acknowledged event 3 yet, which a rewind to a later one would skip; rewind to --first 3,"},
		"to_unacknowledged": {unacked: []uint64{3, 5}, args: []string{"--first", "3"}, output: "will receive 4 events again, from sequence 3 on,", want: []uint64{3, 4, 5, 6}},
		"filter":            {config: jetstream.ConsumerConfig{FilterSubject: "versive.*.*.*.*.msg_2"}, args: []string{"--first", "1"}, output: "will receive 1 event again, from sequence 3 on,", want: []uint64{3}},
		"filters":           {config: jetstream.ConsumerConfig{FilterSubjects: []string{"versive.*.*.*.*.msg_5", "versive.*.*.*.*.msg_1"}}, args: []string{"--first", "1"}, output: "will receive 2 events again, from sequence 2 on,", want: []uint64{2, 6}},
		"started":           {config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &start}, args: []string{"--first", "2"}, output: "will receive 5 events again, from sequence 2 on,", want: []uint64{2, 3, 4, 5, 6}},
		"before_start": {
			config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 4, Description: "kept", MaxAckPending: 7, AckWait: time.Minute},
			args:   []string{"--first", "2"}, output: "will receive 5 events again, from sequence 2 on,", want: []uint64{2, 3, 4, 5, 6}, recreate: true,
		},
		"new": {
			config: jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy, Metadata: map[string]string{"team": "a"}},
			args:   []string{"--first", "2"}, output: "will receive 5 events again, from sequence 2 on,", want: []uint64{2, 3, 4, 5, 6}, recreate: true,
		},
	}
	for name, test := range cases {
		test.config.Durable, test.config.AckPolicy = name, jetstream.AckExplicitPolicy
		if _, err := js.CreateConsumer(t.Context(), "VERSIVE", test.config); err != nil {
			t.Fatal(err)
		}
		cases[name] = test
	}
	store(t, js, "msg_4")
	store(t, js, "msg_5")
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fetch(t, js, name, test.unacked...)
			before := consumerConfig(t, js, name)
			out, err := runCommand(t, "versive-ingress", s, append([]string{"consumers", "rewind", name, "--yes"}, test.args...)...)
			if !strings.Contains(out, test.output) || strings.Contains(out, "created again") != test.recreate || (err != nil) != strings.Contains(out, "has not acknowledged") {
				t.Errorf("%v, with the output: %s", err, out)
			}
			if got := fetch(t, js, name); !slices.Equal(got, test.want) {
				t.Errorf("received %v, want %v", got, test.want)
			}
			after := consumerConfig(t, js, name)
			if test.recreate {
				before.DeliverPolicy, before.OptStartSeq = jetstream.DeliverByStartSequencePolicy, test.want[0]
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the settings have changed (-before +after):\n%s", diff)
			}
		})
	}
}

func consumerConfig(t *testing.T, js jetstream.JetStream, name string) jetstream.ConsumerConfig {
	t.Helper()
	durable, err := js.Consumer(t.Context(), "VERSIVE", name)
	if err != nil {
		t.Fatal(err)
	}
	return durable.CachedInfo().Config
}
