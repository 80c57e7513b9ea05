package replay

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// A replayed event is delivered once a stream that listens here has it, not one
// of the same name across a leaf node connection.
func TestReplayIsAcknowledgedHere(t *testing.T) {
	target := &natsTarget{streams: []string{"COPY"}, domain: "edge"}
	for _, test := range []struct {
		ack  jetstream.PubAck
		good bool
	}{
		{jetstream.PubAck{Stream: "COPY", Domain: "edge"}, true},
		{jetstream.PubAck{Stream: "COPY", Domain: "hub"}, false},
		{jetstream.PubAck{Stream: "COPY"}, false},
		{jetstream.PubAck{Stream: "OTHER", Domain: "edge"}, false},
	} {
		if err := target.check(&test.ack); (err == nil) != test.good {
			t.Errorf("%+v: got error %v, want one: %t", test.ack, err, !test.good)
		}
	}
}

// A replay ends where sending again would not help, and only there.
func TestReplayIsRefused(t *testing.T) {
	for _, test := range []struct {
		code    int
		err     jetstream.ErrorCode
		refused bool
	}{
		{503, 10077, true},  // the store is full
		{503, 10008, false}, // no leader
		{400, 10071, true},  // wrong last sequence
		{409, 10158, false}, // what was sent before is in flight
	} {
		if err := (&jetstream.APIError{Code: test.code, ErrorCode: test.err}); isRefusal(err) != test.refused {
			t.Errorf("%v: refused is %t, want %t", err, !test.refused, test.refused)
		}
	}
}
