package replay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/subscribe"
)

const (
	// postAttempts is how often an event is posted before the replay ends.
	postAttempts = 10
	// longestRetryAfter is the longest Retry-After that is waited for. The replay
	// ends rather than post too early.
	longestRetryAfter = 10 * time.Minute
)

// urlTarget posts events as the vendor does: signed anew under their svix-ids, with a
// secret of their organizations, one after the other. Erasures have no webhook, so they
// are skipped.
type urlTarget struct {
	immediate
	sender    *sender.Sender
	delivered onDelivered
	note      func(format string, args ...any)
}

func (t *urlTarget) deliver(ctx context.Context, m subscribe.Message) error {
	for attempt := 1; !m.Erased(); attempt++ {
		pause, err := t.post(ctx, m)
		if err == nil {
			break
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case pause < 0:
			return undelivered(m, err)
		case pause > longestRetryAfter:
			return undelivered(m, fmt.Errorf("%w and asks to wait %v; rerun after that", err, pause.Round(time.Second)))
		case attempt == postAttempts:
			return undelivered(m, fmt.Errorf("%w; giving up after %d attempts", err, attempt))
		case pause == 0:
			pause = pauseAfter(attempt)
			pause = pause/2 + rand.N(pause)/2
		}
		t.note("%v; trying again in %v", undelivered(m, err), pause.Round(100*time.Millisecond))
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	t.delivered(m, false)
	return nil
}

// post posts an event once. After an error, pause is how long the endpoint asks to
// wait: 0 if it does not ask, below 0 if another attempt would not help.
func (t *urlTarget) post(ctx context.Context, m subscribe.Message) (pause time.Duration, err error) {
	if err := t.sender.SignAs(m.Organization); err != nil {
		return -1, err
	}
	answer, err := t.sender.Post(ctx, m.ID, time.Now(), m.Data)
	switch status := answer.Status; {
	case status == 0:
		return 0, withoutAnswer(err)
	case answer.Accepted():
		return 0, nil
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		pause = answer.RetryAfter
	case status/100 != 5:
		pause = -1
	}
	return pause, fmt.Errorf("the endpoint answered %d %s", answer.Status, http.StatusText(answer.Status))
}

// withoutAnswer returns a client's error if it is about the connection. Other errors
// quote the answer of the endpoint, which may repeat the event.
func withoutAnswer(err error) error {
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return certificate
	}
	if network, ok := errors.AsType[*net.OpError](err); ok {
		return network
	}
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case ok && timeout.Timeout():
		return fmt.Errorf("the endpoint did not answer within %v", config.SenderTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the endpoint closed the connection")
	default:
		return errors.New("the endpoint answered something that is not HTTP")
	}
}
