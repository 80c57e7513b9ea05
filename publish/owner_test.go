package publish_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// owner returns a stream's metadata, without that of the broker.
func owner(t *testing.T, js jetstream.JetStream, name string) map[string]string {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	metadata := maps.Clone(stream.CachedInfo().Config.Metadata)
	maps.DeleteFunc(metadata, func(key, _ string) bool { return strings.HasPrefix(key, "_nats.") })
	return metadata
}

// Two ingresses that derive the same stream name do not share the stream, whichever
// starts first.
func TestStreamHasOneOwner(t *testing.T) {
	t.Parallel()
	for _, names := range [][2]string{{"A", "A_QUARANTINE"}, {"A_QUARANTINE", "A"}} {
		broker := embeddedtest.StartBroker(t, embedded.Config{})
		first, second := config(broker.URL()), config(broker.URL())
		first.Stream, first.Subject = names[0], "first"
		second.Stream, second.Subject = names[1], "second"
		p := openPublisher(t, first)
		if _, err := p.Publish(t.Context(), event(t, "msg_1")); err != nil {
			t.Fatal(err)
		}
		other, err := publish.Open(t.Context(), second)
		if err == nil {
			other.Close()
		}
		conflict, ok := errors.AsType[*publish.ConflictError](err)
		if !ok || conflict.Stream != "A_QUARANTINE" || !strings.Contains(conflict.Problem, "ingress "+first.Stream) {
			t.Errorf("%v: got %v, want a ConflictError about A_QUARANTINE that names its owner", names, err)
		}
		embeddedtest.Await(t, "the first ingress is ready", func() bool { return p.Ready() == nil })
	}
}

// A stream without an owner gets one and keeps its other metadata. An ingress without
// permission to update the stream can publish nevertheless.
func TestOpenClaimsStream(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := startConfigured(t, fmt.Sprintf(`
		listen: "127.0.0.1:-1", jetstream { store_dir: %q }
		no_auth_user: admin
		authorization { users: [
			{ user: admin, password: secret }
			{ user: ingress, password: secret, permissions: { publish: { deny: "$JS.API.STREAM.UPDATE.>" } } }
		] }`, dir))
	js := embeddedtest.Connect(t, s.ClientURL())
	if _, err := js.CreateStream(t.Context(), byHand(func(c *jetstream.StreamConfig) { c.Metadata = map[string]string{"team": "research"} })); err != nil {
		t.Fatal(err)
	}

	cfg := config("nats://ingress:secret@" + s.Addr().String())
	if _, err := openPublisher(t, cfg).Publish(t.Context(), event(t, "msg_1")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"team": "research"}, owner(t, js, "VERSIVE")); diff != "" {
		t.Errorf("without permission (-want +got):\n%s", diff)
	}

	cfg = config(s.ClientURL())
	cfg.KeepStreams = true
	openPublisher(t, cfg)
	if diff := cmp.Diff(map[string]string{"team": "research"}, owner(t, js, "VERSIVE")); diff != "" {
		t.Errorf("KeepStreams (-want +got):\n%s", diff)
	}

	want := map[string]string{"team": "research", "versive-ingress.stream": "VERSIVE", "versive-ingress.kind": "event"}
	embeddedtest.Await(t, fmt.Sprint("an ingress claims it: ", want), func() bool { // it may time out on a busy machine
		openPublisher(t, config(s.ClientURL()))
		return maps.Equal(want, owner(t, js, "VERSIVE"))
	})
	want = map[string]string{"versive-ingress.stream": "VERSIVE", "versive-ingress.kind": "quarantine"}
	if diff := cmp.Diff(want, owner(t, js, "VERSIVE_QUARANTINE")); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
}

// Publishing works with a broker before 2.10, which ignores metadata.
func TestOpenWithoutMetadata(t *testing.T) {
	t.Parallel()
	broker := startFake(t)
	broker.forgetful = true
	for i := range 2 {
		if _, err := openPublisher(t, config(broker.server.ClientURL())).Publish(t.Context(), event(t, fmt.Sprint("msg_", i))); err != nil {
			t.Error(err)
		}
	}
}

// An Eraser does not change the stream of another ingress.
func TestEraseRejectsOwner(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{})
	cfg := config(broker.URL())
	cfg.Stream = "VERSIVE_QUARANTINE" // the quarantine of another ingress
	p := openPublisher(t, cfg)
	m := event(t, "msg_1")
	if _, err := p.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	js := embeddedtest.Connect(t, broker.URL())
	eraser := publish.Eraser{JetStream: js, Stream: "VERSIVE"}
	c := publish.Copy{Kind: schema.KindQuarantine, Subject: m.Subject("versive"), Sequence: 1}
	for _, err := range []error{eraser.Erase(t.Context(), c), eraser.Delete(t.Context(), c), eraser.PutTombstone(t.Context(), c.Kind, c.Subject)} {
		if conflict, ok := errors.AsType[*publish.ConflictError](err); !ok || !strings.Contains(conflict.Problem, "ingress VERSIVE_QUARANTINE") {
			t.Errorf("got %v, want a ConflictError that names the owner", err)
		}
	}
	if got := fmt.Sprint(kept(t, js, "VERSIVE_QUARANTINE")); got != "["+c.Subject+"]" {
		t.Errorf("the stream holds %s", got)
	}
}
