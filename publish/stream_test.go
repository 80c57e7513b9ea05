package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// byHand returns a stream that an operator could have created.
func byHand(change func(*jetstream.StreamConfig)) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name:               "VERSIVE",
		Subjects:           []string{"versive.>"},
		Discard:            jetstream.DiscardNew,
		Duplicates:         48 * time.Hour,
		AllowDirect:        true,
		AllowAtomicPublish: true,
	}
	change(&c)
	return c
}

func TestOpenCreatesStreams(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	openPublisher(t, config(broker.URL()))
	js := embeddedtest.Connect(t, broker.URL())
	for name, subject := range map[string]string{"VERSIVE": "versive.>", "VERSIVE_QUARANTINE": "versive-quarantine.>"} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		got := stream.CachedInfo().Config
		want := byHand(func(c *jetstream.StreamConfig) {
			c.Name, c.Subjects = name, []string{subject}
			c.Retention, c.Storage, c.Replicas = jetstream.LimitsPolicy, jetstream.FileStorage, 1
			c.MaxConsumers, c.MaxMsgs, c.MaxBytes, c.MaxMsgsPerSubject, c.MaxMsgSize = -1, -1, -1, -1, -1
		})
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(jetstream.StreamConfig{}, "Description", "Metadata", "ConsumerLimits")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Open repairs the drifts of a stream that an operator has configured, and never
// reduces a setting.
func TestOpenRepairsStream(t *testing.T) {
	day := 24 * time.Hour
	for _, test := range []struct {
		name   string
		have   jetstream.StreamConfig
		cfg    func(*publish.Config)
		want   func(jetstream.StreamConfig) any
		expect any
	}{
		{
			"another subject stays", byHand(func(c *jetstream.StreamConfig) { c.Subjects = []string{"old.>"} }), nil,
			func(c jetstream.StreamConfig) any { return strings.Join(c.Subjects, " ") }, "old.> versive.>",
		},
		{
			"narrower subjects are replaced", byHand(func(c *jetstream.StreamConfig) { c.Subjects = []string{"versive.interview.>", "old.>", "versive.a"} }), nil,
			func(c jetstream.StreamConfig) any { return strings.Join(c.Subjects, " ") }, "old.> versive.>",
		},
		{
			"a short window is extended", byHand(func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute }), nil,
			func(c jetstream.StreamConfig) any { return c.Duplicates }, 2 * day,
		},
		{
			"a long window stays", byHand(func(c *jetstream.StreamConfig) { c.Duplicates = 4 * day }), nil,
			func(c jetstream.StreamConfig) any { return c.Duplicates }, 4 * day,
		},
		{
			"the window stays within an age set by hand", byHand(func(c *jetstream.StreamConfig) { c.Duplicates, c.MaxAge = time.Minute, time.Hour }), nil,
			func(c jetstream.StreamConfig) any { return [2]time.Duration{c.MaxAge, c.Duplicates} },
			[2]time.Duration{time.Hour, time.Hour},
		},
		{
			"a shorter age is extended to the setting", byHand(func(c *jetstream.StreamConfig) { c.Duplicates, c.MaxAge = time.Hour, time.Hour }),
			func(c *publish.Config) { c.MaxAge = 3 * day },
			func(c jetstream.StreamConfig) any { return [2]time.Duration{c.MaxAge, c.Duplicates} },
			[2]time.Duration{3 * day, 2 * day},
		},
		{
			"a longer age stays", byHand(func(c *jetstream.StreamConfig) { c.MaxAge = 9 * day }),
			func(c *publish.Config) { c.MaxAge = 3 * day },
			func(c jetstream.StreamConfig) any { return c.MaxAge }, 9 * day,
		},
		{
			"no age stays", byHand(func(*jetstream.StreamConfig) {}),
			func(c *publish.Config) { c.MaxAge = time.Hour },
			func(c jetstream.StreamConfig) any { return [2]time.Duration{c.MaxAge, c.Duplicates} },
			[2]time.Duration{0, 2 * day},
		},
		{
			"an unlimited stream discards new from now on", byHand(func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }), nil,
			func(c jetstream.StreamConfig) any { return c.Discard }, jetstream.DiscardNew,
		},
		{
			"direct get and atomic publish are allowed", byHand(func(c *jetstream.StreamConfig) { c.AllowDirect, c.AllowAtomicPublish = false, false }), nil,
			func(c jetstream.StreamConfig) any { return [2]bool{c.AllowDirect, c.AllowAtomicPublish} },
			[2]bool{true, true},
		},
		{
			"limits stay", byHand(func(c *jetstream.StreamConfig) { c.Duplicates, c.MaxBytes, c.MaxMsgSize = time.Hour, 1<<30, 2<<20 }), nil,
			func(c jetstream.StreamConfig) any { return [2]int64{c.MaxBytes, int64(c.MaxMsgSize)} },
			[2]int64{1 << 30, 2 << 20},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartBroker(t, embedded.Config{})
			js := embeddedtest.Connect(t, broker.URL())
			if _, err := js.CreateStream(t.Context(), test.have); err != nil {
				t.Fatal(err)
			}
			cfg := config(broker.URL())
			if test.cfg != nil {
				test.cfg(&cfg)
			}
			p := openPublisher(t, cfg)
			stream, err := js.Stream(t.Context(), "VERSIVE")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.expect, test.want(stream.CachedInfo().Config)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if limit := int64(test.have.MaxMsgSize); limit > 0 && p.MaxMessage() != limit {
				t.Errorf("largest message is %d, want the stream's limit %d", p.MaxMessage(), limit)
			}
			if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenRejectsStream(t *testing.T) {
	for _, test := range []struct {
		name    string
		have    jetstream.StreamConfig
		problem string // part of the error
	}{
		{"work queue", byHand(func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }), "WorkQueue retention"},
		{"interest", byHand(func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }), "Interest retention"},
		{"memory", byHand(func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }), "in memory"},
		{"no acknowledgements", byHand(func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false }), "no_ack"},
		{"asynchronous", byHand(func(c *jetstream.StreamConfig) {
			c.PersistMode, c.AllowAtomicPublish = jetstream.AsyncPersistMode, false
		}), "persist_mode"},
		{"old are discarded", byHand(func(c *jetstream.StreamConfig) { c.Discard, c.MaxBytes = jetstream.DiscardOld, 1<<20 }), "--discard new"},
		{"new are discarded by subject", byHand(func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject, c.MaxMsgsPerSubject = true, 1 }), "discard_new_per_subject"},
		{"transform", byHand(func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "versive.>", Destination: "other.>"}
		}), "transforms subjects"},
		{"subjects are another stream's", byHand(func(c *jetstream.StreamConfig) { c.Name = "OTHER" }), "if INGRESS_STREAM was changed, set it back"},
		{"mirror", jetstream.StreamConfig{Name: "VERSIVE", Mirror: &jetstream.StreamSource{Name: "ORIGIN"}}, "mirror"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			broker := embeddedtest.StartBroker(t, embedded.Config{})
			if _, err := embeddedtest.Connect(t, broker.URL()).CreateStream(t.Context(), test.have); err != nil {
				t.Fatal(err)
			}
			p, err := publish.Open(t.Context(), config(broker.URL()))
			if err == nil {
				p.Close()
			}
			conflict, ok := errors.AsType[*publish.ConflictError](err)
			if !ok {
				t.Fatalf("got %v, want a ConflictError", err)
			}
			if conflict.Stream != "VERSIVE" || !strings.Contains(conflict.Problem, test.problem) {
				t.Errorf("got %v, want %q in it", conflict, test.problem)
			}
		})
	}
}

func TestOpenRejectsReplicasWithoutCluster(t *testing.T) {
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	cfg := config(broker.URL())
	cfg.Replicas = 3
	_, err := publish.Open(t.Context(), cfg)
	if _, ok := errors.AsType[*publish.ConflictError](err); !ok {
		t.Errorf("got %v, want a ConflictError", err)
	}
}

// While there is no broker, Open waits until its context is done. Neither the error
// nor the log contains a password or token.
func TestOpenWaitsForBroker(t *testing.T) {
	for _, url := range []string{
		"nats://user:pa55word@127.0.0.1:1", "nats://pa55word@127.0.0.1:1", "user:pa55word@127.0.0.1:1", "pa55word@127.0.0.1:1",
	} {
		var log bytes.Buffer
		cfg := config(url)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cfg.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(&log, onWrite(cancel)), nil))
		_, err := publish.Open(ctx, cfg)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want context.Canceled", url, err)
		}
		for _, text := range []string{err.Error(), log.String()} {
			if !strings.Contains(text, "nats://127.0.0.1:1") || strings.Contains(text, "pa55word") {
				t.Errorf("%s: got %q, want the address of the broker without credentials", url, text)
			}
		}
	}
}

// onWrite is an io.Writer that calls the function for each Write.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// Nothing is published to a stream while it is edited so that it could lose events.
func TestStreamIsEdited(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	js := embeddedtest.Connect(t, broker.URL())
	p := openPublisher(t, config(broker.URL()))
	for _, discard := range []jetstream.DiscardPolicy{jetstream.DiscardOld, jetstream.DiscardNew} {
		if _, err := js.UpdateStream(t.Context(), byHand(func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = discard, 5 })); err != nil {
			t.Fatal(err)
		}
		loses := discard == jetstream.DiscardOld
		embeddedtest.Await(t, "readiness follows", func() bool {
			_, ok := errors.AsType[*publish.ConflictError](p.Ready())
			return ok == loses
		})
		_, err := p.Publish(t.Context(), event(t, "msg_1"))
		if loses {
			wantReason(t, err, "refused")
		} else if err != nil {
			t.Error(err)
		}
	}
}

// A store that cannot be created yet is not a conflict, so Open retries. Here a file
// has the name of the stream's directory.
func TestOpenWaitsForStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broker := embeddedtest.StartBroker(t, embedded.Config{Dir: dir})
	obstacle := filepath.Join(dir, "jetstream", "$G", "streams", "VERSIVE")
	if err := errors.Join(os.MkdirAll(filepath.Dir(obstacle), 0o700), os.WriteFile(obstacle, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	cfg := config(broker.URL())
	cfg.Logger = slog.New(slog.NewTextHandler(onWrite(func() { os.Remove(obstacle) }), &slog.HandlerOptions{Level: slog.LevelWarn}))
	if _, err := openPublisher(t, cfg).Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Error(err)
	}
}

// An error of the broker is a conflict only if it is permanent.
func TestOpenConflicts(t *testing.T) {
	for _, test := range []struct {
		status, code int
		conflict     bool
	}{
		{500, 10049, false}, // the store cannot be created
		{400, 10058, false}, // another ingress has just created it
		{400, 10005, false}, // too few peers
		{400, 10124, false}, // the stream is being moved
		{400, 10226, false}, // or scaled
		{429, 10167, false}, // too many requests
		{500, 10047, false}, // no space
		{503, 10008, false}, // no leader
		{500, 10052, true},  // invalid configuration
		{500, 10074, true},  // replicas without a cluster
		{400, 10065, true},  // subjects overlap
		{400, 10027, true},  // maximum number of streams
	} {
		t.Run(fmt.Sprint(test.code), func(t *testing.T) {
			t.Parallel()
			broker := startFake(t)
			broker.create = &jetstream.APIError{Code: test.status, ErrorCode: jetstream.ErrorCode(test.code)}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cfg := config(broker.server.ClientURL())
			cfg.Logger = slog.New(slog.NewTextHandler(onWrite(cancel), &slog.HandlerOptions{Level: slog.LevelWarn})) // that it waits
			_, err := publish.Open(ctx, cfg)
			if _, ok := errors.AsType[*publish.ConflictError](err); ok != test.conflict || !ok && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want a conflict: %t", err, test.conflict)
			}
		})
	}
}
