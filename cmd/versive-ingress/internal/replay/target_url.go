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
	"net/url"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/subscribe"
)

const (
	// postAttempts is how often an event is posted before the replay ends.
	postAttempts = 10
	// The pauses between attempts double from the shortest to the longest.
	shortestPause, longestPause = 500 * time.Millisecond, 30 * time.Second
	// longestRetryAfter is the longest Retry-After that is waited for. The replay
	// ends rather than come too early.
	longestRetryAfter = 10 * time.Minute
)

// urlTarget posts events as the vendor does: signed anew under the id that
// they came with, one after the other. Erasures have no webhook; they are
// passed over.
type urlTarget struct {
	sender  *sender.Sender
	confirm func(receipt)
	note    func(format string, args ...any)
}

// parseURL refuses what cannot be posted to.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("--to-url: want a URL such as https://host/path") // not quoted: it may hold a token
	}
	return u, nil
}

// shownURL returns what of a URL is no secret.
func shownURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func (t *urlTarget) deliver(ctx context.Context, m subscribe.Message) error {
	if m.Erased() {
		t.confirm(receiptOf(m))
		return nil
	}
	for attempt := 1; ; attempt++ {
		pause, err := t.post(ctx, m)
		switch {
		case err == nil:
			t.confirm(receiptOf(m))
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case pause < 0:
			return undelivered(m, err)
		case pause > longestRetryAfter:
			return undelivered(m, fmt.Errorf("%w and asks to wait %v; go on then", err, pause.Round(time.Second)))
		case attempt == postAttempts:
			return undelivered(m, fmt.Errorf("%w, and so the %d times before", err, attempt-1))
		case pause == 0:
			pause = min(shortestPause<<(attempt-1), longestPause)
			pause = pause/2 + rand.N(pause)/2
		}
		t.note("%v; trying again in %v", undelivered(m, err), pause.Round(100*time.Millisecond))
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// post posts an event once. After an error, pause is how long the endpoint asks to
// wait: 0 if it does not ask, below 0 if another attempt would not help.
func (t *urlTarget) post(ctx context.Context, m subscribe.Message) (pause time.Duration, err error) {
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

// withoutAnswer returns a client's error if it is about the connection. Others
// quote what the endpoint has answered, which may be what it was sent.
func withoutAnswer(err error) error {
	var certificate *tls.CertificateVerificationError
	var network *net.OpError
	switch timeout := net.Error(nil); {
	case errors.As(err, &certificate):
		return certificate
	case errors.As(err, &network):
		return network
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("the endpoint did not answer within %v", config.SenderTimeout)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the endpoint closed the connection")
	default:
		return errors.New("the endpoint answered something that is not HTTP")
	}
}

func (t *urlTarget) flush(context.Context) error { return nil }

func (t *urlTarget) close() { sender.Client.CloseIdleConnections() }

// sleep waits, or returns why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
