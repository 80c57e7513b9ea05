package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Domain returns the JetStream domain in which nc finds a stream, or "" if its
// servers have no domain. The stream's acknowledgements name the same domain.
//
// A stream with the same name or subjects can exist in another domain. Across a leaf
// node connection it stores and acknowledges the same messages, while requests to
// the JetStream API stay within one domain.
func Domain(ctx context.Context, nc *nats.Conn, stream string) (string, error) {
	answer, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.INFO."+stream, nil)
	if err != nil {
		return "", fmt.Errorf("looking up the domain of stream %s: %w", stream, err)
	}
	var info struct {
		Domain string              `json:"domain"`
		Error  *jetstream.APIError `json:"error"`
	}
	err = json.Unmarshal(answer.Data, &info)
	if err == nil && info.Error != nil {
		err = info.Error
	}
	if err != nil {
		return "", fmt.Errorf("looking up the domain of stream %s: %w", stream, err)
	}
	return info.Domain, nil
}

// errForeignAck means that another stream has acknowledged a message, which the
// intended stream may not have.
var errForeignAck = errors.New("acknowledged by another stream")

// checkAck returns an error if the stream and domain of an acknowledgement are not
// those of this publisher's stream called name.
func (p *Publisher) checkAck(name, stream, domain string) error {
	switch {
	case stream != name:
		return fmt.Errorf("%w: the subject belongs to stream %s, not %s", errForeignAck, stream, name)
	case domain != p.domain:
		return fmt.Errorf("%w: stream %s of JetStream domain %q has answered instead of that of domain %q; "+
			"give the other one different subjects, or restart the ingress if the domain of its broker has changed", errForeignAck, stream, domain, p.domain)
	}
	return nil
}
