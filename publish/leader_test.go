package publish_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// Events are stored while only the quarantine has no leader, so the publisher is ready. The
// log reports the quarantine. Without a leader of the events, it is not ready, and the
// reason has what the broker lacks.
func TestLeaderless(t *testing.T) {
	t.Parallel()
	fake, log := startFake(t), &embeddedtest.Log{}
	headless := func(stream string) {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		fake.headless = stream
	}
	cfg := config(fake.server.ClientURL())
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	cfg.Diagnose = func() error {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		if fake.headless == "" {
			return nil
		}
		return errors.New("node-2 is away")
	}
	p := openPublisher(t, cfg)
	headless("VERSIVE_QUARANTINE")
	embeddedtest.Await(t, "the quarantine is reported", func() bool {
		return strings.Contains(log.String(), "webhooks that are not understood cannot be stored: stream VERSIVE_QUARANTINE: has no leader")
	})
	if err := p.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Error(err)
	}
	headless("VERSIVE")
	embeddedtest.Await(t, "not ready, with the reason", func() bool {
		err := p.Ready()
		return err != nil && strings.Contains(err.Error(), "node-2 is away (stream VERSIVE: has no leader)")
	})
	headless("")
	embeddedtest.Await(t, "ready", func() bool { return p.Ready() == nil })
}

// A message that a leader has not answered when another one is elected is published again,
// and stored once.
func TestLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]fault{"not stored": {Lose: true}, "stored": {Silent: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := startFake(t)
			fake.leader = "node-0"
			cfg := config(fake.server.ClientURL())
			cfg.Timeout = time.Minute
			p := openPublisher(t, cfg)
			fake.misbehave([]fault{lost}, nil, nil)
			published := make(chan outcome)
			go func() { published <- publishAll(t, p, events(t, 0, 1))[0] }()
			embeddedtest.Await(t, "the message is not answered", func() bool {
				fake.mu.Lock()
				defer fake.mu.Unlock()
				return len(fake.single) == 0
			})
			fake.mu.Lock()
			fake.leader = "node-1"
			fake.mu.Unlock()
			if o := embeddedtest.Receive(t, "it is answered", published); o.err != nil || o.receipt.Sequence != 1 || o.receipt.Duplicate != lost.Silent {
				t.Errorf("got %+v", o)
			}
			if ids := fake.ids(); len(ids) != 1 {
				t.Errorf("stored: %v", ids)
			}
		})
	}
}

// A server of a cluster that has just started, or was frozen, does not know a stream of dead
// letters that others have created. That is no loss.
func TestDeadLettersAreNotKnownYet(t *testing.T) {
	t.Parallel()
	fake, log := startFake(t), &embeddedtest.Log{}
	fake.leader = "node-0"
	cfg := config(fake.server.ClientURL())
	cfg.Logger, cfg.MarksDir = slog.New(slog.NewTextHandler(log, nil)), t.TempDir()
	openPublisher(t, cfg)
	know := func(known bool) {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		delete(fake.configs, "VERSIVE_DEAD")
		if known {
			fake.configs["VERSIVE_DEAD"] = jetstream.StreamConfig{Name: "VERSIVE_DEAD", Replicas: 1}
		}
		fake.asked = map[string]int{}
	}
	know(true)
	embeddedtest.Await(t, "the stream has a mark", func() bool {
		text, err := os.ReadFile(filepath.Join(cfg.MarksDir, "marks.json"))
		return err == nil && strings.Contains(string(text), "VERSIVE_DEAD")
	})
	know(false)
	embeddedtest.Await(t, "it is looked up", func() bool {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		return fake.asked["VERSIVE_DEAD"] >= 6
	})
	if strings.Contains(log.String(), "has lost") {
		t.Error(log.String())
	}
}

// Open does not ask a broker that lacks something: there would be no answer, and the
// look-up would last longer than what is missing.
func TestOpenWaitsForALeader(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	log := &embeddedtest.Log{}
	cfg := config(broker.URL())
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	looks := 0
	cfg.Diagnose = func() error {
		if looks++; looks <= 2 {
			return errors.New("node-2 is away")
		}
		return nil
	}
	openPublisher(t, cfg)
	if text := log.String(); !strings.Contains(text, `error="node-2 is away"`) || strings.Contains(text, "looking up") {
		t.Errorf("got %s", text)
	}
}

// One replica on a cluster is a warning, with three there is none.
func TestOneReplicaOnACluster(t *testing.T) {
	t.Parallel()
	brokers := embeddedtest.StartCluster(t, t.TempDir())
	for replicas, warns := range map[int]bool{1: true, 3: false} {
		log := &embeddedtest.Log{}
		cfg := config(brokers[0].URL())
		cfg.Replicas, cfg.Stream, cfg.Subject = replicas, []string{1: "ONE", 3: "THREE"}[replicas], []string{1: "one", 3: "three"}[replicas]
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
		openPublisher(t, cfg)
		if got := strings.Contains(log.String(), "INGRESS_REPLICAS=3"); got != warns {
			t.Errorf("%d replicas: warned %t, want %t:\n%s", replicas, got, warns, log)
		}
	}
}
