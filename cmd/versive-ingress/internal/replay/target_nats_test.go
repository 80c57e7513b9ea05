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
