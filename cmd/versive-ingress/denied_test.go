package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
)

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
		started := time.Now()
		out, err := runCommand(t, "versive-ingress", sys.settings, args...)
		if err == nil || !strings.Contains(out, "Permissions Violation") || !strings.Contains(out, "INGRESS_NATS_NKEY") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		if took := time.Since(started); took > broker.Timeout/2 {
			t.Errorf("%v took %v", args, took)
		}
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
