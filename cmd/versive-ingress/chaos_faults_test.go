package main

import (
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/ingest"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// settings returns those of an ingress on the embedded broker, in a process of
// its own.
func (r *round) settings() config.Settings {
	s := newSettings(r)
	s.PublishTimeout = time.Second
	return s
}

// dialEmbedded connects to an ingress's own broker as a subscriber does.
func (r *round) dialEmbedded(s config.Settings) jetstream.JetStream {
	return embeddedtest.Connect(r, "nats://"+s.NATSListen)
}

// killIngress kills the ingress with its broker.
func killIngress(r *round) {
	killEmbedded(r, &storm{think: 5 * time.Millisecond}, func(config.Settings) {})
}

// killBatch does so while there is so much to do that events are stored many
// at a time.
func killBatch(r *round) {
	killEmbedded(r, &storm{senders: 96}, func(s config.Settings) {
		embeddedtest.Await(r, "events stored by one commit", func() bool {
			const commits = "versive_ingress_publish_batch_events"
			events, found := strings.CutPrefix(metric(s, commits+"_sum"), commits+"_sum")
			return found && metric(s, commits+"_count") != commits+"_count"+events
		})
	})
	if r.storm.batched == 0 {
		r.Error("no event was stored in a batch")
	}
}

// killEmbedded kills the ingress at a moment soon after it is ready.
func killEmbedded(r *round, storm *storm, ready func(config.Settings)) {
	s := r.settings()
	cmd := r.launch(s)
	awaitReady(r, s)
	r.begin(storm, s)
	r.times(4, func() {
		ready(s)
		r.pause(0, 30*time.Millisecond)
		kill(cmd)
		cmd = r.launch(s)
		awaitReady(r, s)
	})
	r.settle()
	r.check(r.dialEmbedded(s), s.Stream)
}

// external returns the configuration of a broker in a process of its own, and
// the settings of an ingress that uses it.
func (r *round) external() (embedded.Config, config.Settings) {
	config := embedded.Config{Dir: r.TempDir(), Listen: embeddedtest.FreeAddress(r)}
	s := withBroker(r.settings(), config.Listen)
	if r.random.IntN(2) == 0 {
		s.PublishMode = string(publish.ModeBatch)
	}
	return config, s
}

func killBroker(r *round) {
	config, s := r.external()
	broker := launchBroker(r, config)
	r.launch(s)
	awaitReady(r, s)
	r.begin(&storm{senders: 24, think: 5 * time.Millisecond}, s)
	r.times(4, func() {
		r.pause(0, 30*time.Millisecond)
		kill(broker)
		r.pause(0, 500*time.Millisecond)
		broker = launchBroker(r, config)
		awaitReady(r, s)
	})
	r.settle()
	r.check(embeddedtest.Connect(r, "nats://"+config.Listen), s.Stream)
}

// freezeBroker freezes the broker for longer than the ingress waits for
// anything: for an answer, and in the long form for a sign of life.
func freezeBroker(r *round) {
	config, s := r.external()
	broker := launchBroker(r, config)
	r.launch(s)
	awaitReady(r, s)
	r.begin(&storm{think: 5 * time.Millisecond}, s)
	r.times(2, func() {
		thaw := freeze(r, broker)
		r.storm.awaitRefused(r)
		if r.long {
			r.pause(15*time.Second, 18*time.Second)
		} else {
			r.pause(0, time.Second)
		}
		thaw()
		awaitReady(r, s)
	})
	r.settle()
	r.check(embeddedtest.Connect(r, "nats://"+config.Listen), s.Stream)
}

// cutAcks cuts the connection in the middle of an acknowledgement: the event
// is stored, and the ingress cannot know.
func cutAcks(r *round) {
	r.tamper(0.01, func(*rand.Rand) verdict { return verdict{cut: true} })
}

// delayAcks delays some answers of the broker, and all that come after them,
// by up to twice the time that the ingress waits.
func delayAcks(r *round) {
	r.tamper(0.01, func(random *rand.Rand) verdict {
		return verdict{delay: time.Duration(random.Int64N(int64(2 * time.Second)))}
	})
}

// dropAcks swallows some answers of the broker.
func dropAcks(r *round) {
	r.tamper(0.02, func(*rand.Rand) verdict { return verdict{drop: true} })
}

// tamper gives a share of the broker's answers another fate, on their way
// through a proxy.
func (r *round) tamper(share float64, fate func(*rand.Rand) verdict) {
	config, s := r.external()
	launchBroker(r, config)
	var staged atomic.Int64
	wanted := int64(2 + r.random.IntN(2))
	if r.long {
		wanted *= 5
	}
	var armed atomic.Bool
	random := rand.New(rand.NewPCG(r.random.Uint64(), 0))
	p := newProxy(r, config.Listen, func() verdict {
		if !armed.Load() || staged.Load() >= wanted || random.Float64() >= share {
			return verdict{}
		}
		staged.Add(1)
		return fate(random)
	})
	s.NATSURL = "nats://" + p.address()
	r.launch(s)
	awaitReady(r, s)
	armed.Store(true)
	r.begin(&storm{senders: 24, think: 5 * time.Millisecond}, s)
	embeddedtest.Await(r, "all the faults", func() bool { return staged.Load() >= wanted })
	awaitReady(r, s)
	r.settle()
	r.staged = int(staged.Load())
	r.check(embeddedtest.Connect(r, "nats://"+config.Listen), s.Stream)
}

// hangUp lets clients go before they have their answer, at every moment of a
// request.
func hangUp(r *round) {
	s := r.settings()
	r.launch(s)
	awaitReady(r, s)
	r.begin(&storm{senders: 24, think: 5 * time.Millisecond, hangUps: 0.5}, s)
	n := 300
	if r.long {
		n = 3000
	}
	r.storm.awaitAccepted(r, n)
	r.settle()
	r.check(r.dialEmbedded(s), s.Stream)
	r.staged = r.storm.counts().hungUp
}

// twoIngresses lets two take the same webhooks, at the same time too, for one
// stream; one of them is killed now and then.
func twoIngresses(r *round) {
	config, s := r.external()
	launchBroker(r, config)
	other := s
	other.Listen, other.AdminListen = embeddedtest.FreeAddress(r), embeddedtest.FreeAddress(r)
	r.launch(s)
	cmd := r.launch(other)
	awaitReady(r, s)
	awaitReady(r, other)
	r.begin(&storm{senders: 24, think: 5 * time.Millisecond, twins: 0.5}, s, other)
	r.times(3, func() {
		r.pause(0, 100*time.Millisecond)
		kill(cmd)
		cmd = r.launch(other)
		awaitReady(r, other)
	})
	r.settle()
	r.check(embeddedtest.Connect(r, "nats://"+config.Listen), s.Stream)
}

// fullStream limits the stream to what it has about now, and later no more.
func fullStream(r *round) {
	s := r.settings()
	r.launch(s)
	awaitReady(r, s)
	js := r.dialEmbedded(s)
	r.begin(&storm{think: 5 * time.Millisecond}, s)
	r.times(4, func() {
		stream, err := js.Stream(r.Context(), s.Stream)
		if err != nil {
			r.Fatal(err)
		}
		now := int64(stream.CachedInfo().State.Bytes)
		if err := setMaxBytes(r.Context(), js, now+1+r.random.Int64N(64<<10)); err != nil {
			r.Fatal(err)
		}
		r.storm.awaitRefused(r)
		r.pause(0, 200*time.Millisecond)
		if err := setMaxBytes(r.Context(), js, 1<<30); err != nil {
			r.Fatal(err)
		}
	})
	r.settle()
	r.check(js, s.Stream)
}

// fullStore lets the whole store reach its limit; it gets another by a
// restart.
func fullStore(r *round) {
	s := r.settings()
	s.MaxStore = config.Size(64<<10 + r.random.IntN(256<<10))
	cmd := r.launch(s)
	awaitReady(r, s)
	r.begin(&storm{think: 5 * time.Millisecond}, s)
	for left := r.few(3) - 1; left >= 0; left-- {
		r.storm.awaitRefused(r)
		r.staged++
		r.pause(0, 200*time.Millisecond)
		terminate(r, cmd)
		if s.MaxStore += config.Size(256<<10 + r.random.IntN(256<<10)); left == 0 {
			s.MaxStore = 1 << 30
		}
		cmd = r.launch(s)
		awaitReady(r, s)
	}
	r.settle()
	r.check(r.dialEmbedded(s), s.Stream)
}

// jumpClock lets the ingress's clock jump, so that what is real looks too old
// or comes from the future, and lets the broker forget ids as if hours had
// passed.
func jumpClock(r *round) {
	s := r.settings()
	broker := embeddedtest.StartBroker(r, embedded.Config{Dir: s.DataDir, Listen: s.NATSListen})
	p, err := publish.Open(r.Context(), publish.Config{
		Options: []nats.Option{nats.InProcessServer(broker)},
		Stream:  s.Stream, Subject: s.Subject, Replicas: 1, DedupeWindow: 100 * time.Millisecond, Timeout: s.PublishTimeout,
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(p.Close)
	var ahead atomic.Int64 // of the ingress's clock
	handler, err := ingest.New(ingest.Config{
		Path: s.Path, Secrets: s.Secrets, Tolerance: s.Tolerance,
		MaxBody: config.DefaultMaxBody, MaxInflight: int64(s.MaxInflight), Publisher: p,
		Logger: slog.New(slog.DiscardHandler),
		Now:    func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		r.Fatal(err)
	}
	server := httptest.NewServer(handler)
	r.Cleanup(server.Close)
	s.Listen = strings.TrimPrefix(server.URL, "http://")

	r.begin(&storm{think: 5 * time.Millisecond, allowed: []int{http.StatusUnauthorized}}, s)
	r.times(8, func() {
		ahead.Store(r.random.Int64N(int64(4*time.Hour)) - int64(2*time.Hour))
		r.pause(20*time.Millisecond, 200*time.Millisecond)
		ahead.Store(0)
	})
	r.settle()
	r.check(embeddedtest.Connect(r, broker.URL()), s.Stream)
}
