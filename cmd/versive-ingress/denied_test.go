package main

import (
	"strings"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/broker"
)

// A command whose user may not do what it asks for ends before a request times out, and
// names the settings of another user.
func TestCommandsOfDeniedUsers(t *testing.T) {
	t.Parallel()
	sys, _ := runWithUsers(t, `"$JS.API.CONSUMER.CREATE.VERSIVE.>"`)
	sys.post(t, "msg_1", sample)
	sys.post(t, "msg_raw", []byte("{}"))
	for _, args := range [][]string{
		{"replay"},
		{"erase", "--interview", sampleInterview, "--yes"},
		{"quarantine", "discard", "msg_raw", "--yes"},
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
}
