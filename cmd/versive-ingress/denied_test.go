package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/schema"
)

// namesDenial reports whether an output ends with one error, which names a permission and
// the settings of another user, and no consequence of the closed connection as its cause.
func namesDenial(out string) bool {
	_, last, _ := strings.Cut("\n"+out, "\nversive-ingress: ")
	return strings.Count(last, "\n") == 1 && strings.Contains(last, "the broker denies the request: Permissions Violation for Publish to \"") &&
		strings.Contains(last, "INGRESS_NATS_NKEY") && !strings.Contains(out, "connection closed") && !strings.Contains(out, "unreachable")
}

// requireDenied runs a command, which must end with a denial before a request times out.
func requireDenied(t *testing.T, sys *system, args ...string) {
	t.Helper()
	started := time.Now()
	out, err := runCommand(t, "versive-ingress", sys.settings, args...)
	if err == nil || !namesDenial(out) {
		t.Errorf("%v: %v\n%s", args, err, out)
	}
	if took := time.Since(started); took > broker.Timeout/2 {
		t.Errorf("%v took %v", args, took)
	}
}

// A command whose user may not do what it asks for ends before a request times out, and
// names the settings of another user.
func TestCommandsOfDeniedUsers(t *testing.T) {
	t.Parallel()
	sys, u := runWithUsers(t, `"$JS.API.CONSUMER.CREATE.VERSIVE.>"`)
	_, operator := u.connect(t, sys.BrokerURL(), u.operator)
	if _, err := operator.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_raw", []byte("{}"))
	for _, args := range [][]string{
		{"replay"},
		{"erase", "--interview", sampleInterview, "--yes"},
		{"quarantine", "discard", "msg_raw", "--yes"},
		{"consumers", "rewind", "reports", "--first", "1", "--yes"},
	} {
		requireDenied(t, sys, args...)
	}
	// Requests that the account of subscribers does not import have no answer.
	sys.settings.NATSNKey = u.subscriber
	for _, args := range [][]string{{"find", "msg_1"}, {"quarantine", "list"}} {
		out, err := runCommand(t, "versive-ingress", sys.settings, args...)
		if err == nil || !strings.Contains(out, "VERSIVE_QUARANTINE") || !strings.Contains(out, "use the key of the operator") {
			t.Errorf("%v as a subscriber: %v\n%s", args, err, out)
		}
	}
}

// The same for an operator who may not store, or not read single messages.
func TestCommandsOfDeniedOperators(t *testing.T) {
	t.Parallel()
	for denied, commands := range map[string][][]string{
		`"versive.>", "versive-quarantine.>", "versive-dead.>"`: {
			{"erase", "--interview", sampleInterview, "--yes"},
			{"quarantine", "discard", "msg_raw", "--yes"},
			{"quarantine", "requeue", "msg_2"},
			{"replay", "--to-subject", "copies"},
		},
		`"$JS.API.STREAM.MSG.GET.*"`: {
			{"consumers"},
			{"find", "msg_1"},
			{"quarantine", "show", "msg_2"},
			{"quarantine", "requeue", "--all"},
		},
	} {
		t.Run(denied, func(t *testing.T) {
			t.Parallel()
			sys, u := runWithUsers(t, denied)
			storeOne(t, sys, u)
			sys.settings.NATSNKey = u.operator
			for _, args := range commands {
				requireDenied(t, sys, args...)
			}
		})
	}
}

// storeOne stores an event, a webhook that is not understood and one that is, creates a
// consumer, and returns the connection of the ingress's user.
func storeOne(t *testing.T, sys *system, u users) jetstream.JetStream {
	t.Helper()
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_raw", []byte("{}"))
	_, ingress := u.connect(t, sys.BrokerURL(), u.ingress)
	m := schema.Quarantine("msg_2", interview("msg_2"), &schema.Error{Reason: schema.Invalid}, nil)
	if _, err := ingress.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject("versive"), Header: m.Header, Data: m.Data}); err != nil {
		t.Fatal(err)
	}
	if _, err := ingress.CreateConsumer(t.Context(), "VERSIVE", jetstream.ConsumerConfig{Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	return ingress
}

// A user who may store and not delete, as that of the ingress, leaves no tombstone without
// an erasure.
func TestUserMayNotDelete(t *testing.T) {
	t.Parallel()
	sys, u := runWithUsers(t)
	ingress := storeOne(t, sys, u)
	for _, args := range [][]string{
		{"erase", "--interview", sampleInterview, "--yes"},
		{"quarantine", "discard", "msg_raw", "--yes"},
		{"quarantine", "requeue", "msg_2"},
	} {
		out, err := runCommand(t, "versive-ingress", sys.settings, args...)
		if err == nil || !namesDenial(out) || !strings.Contains(out, "STREAM.MSG.DELETE.VERSIVE") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	for name, last := range map[string]uint64{"VERSIVE": 1, "VERSIVE_QUARANTINE": 2} {
		stream, err := ingress.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if state := stream.CachedInfo().State; state.LastSeq != last || state.Msgs != last {
			t.Errorf("stream %s has %+v", name, state)
		}
	}
	sys.settings.NATSNKey = u.operator
	must(t, sys.settings, "quarantine", "requeue", "msg_2")
	must(t, sys.settings, "quarantine", "discard", "msg_raw", "--yes")
	must(t, sys.settings, "erase", "--interview", sampleInterview, "--yes")
	must(t, sys.settings, "audit")
}
