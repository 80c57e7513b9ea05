package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Domain returns the JetStream domain in which nc finds a stream, "" if its
// servers have none. An acknowledgement of this stream names the same domain.
//
// A stream of the same name, or of the same subjects, can be in another domain.
// Across a leaf node connection it stores and acknowledges the same messages,
// while requests to JetStream's API stay within one domain.
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

// errForeign means that a message was acknowledged, but not by the stream that
// it was meant for, which may not have it.
var errForeign = errors.New("not acknowledged by our stream")

// checkAck returns an error if an acknowledgement of the given stream and domain
// is not that of our stream called name.
func (p *Publisher) checkAck(name, stream, domain string) error {
	switch {
	case stream != name:
		return fmt.Errorf("%w: subject belongs to stream %s, not %s", errForeign, stream, name)
	case domain != p.domain:
		return fmt.Errorf("%w: stream %s of JetStream domain %q has answered, not that of domain %q; "+
			"give the other one different subjects, or restart the ingress if the domain of its broker was changed", errForeign, stream, domain, p.domain)
	}
	return nil
}
