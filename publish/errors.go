package publish

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of JetStream that nats.go has no name for.
const (
	errCodeDuplicateInFlight     jetstream.ErrorCode = 10158
	errCodeInsufficientResource  jetstream.ErrorCode = 10023
	errCodeStoreFailed           jetstream.ErrorCode = 10077 // full by bytes or messages, among others
	errCodeStorageExceeded       jetstream.ErrorCode = 10047
	errCodeNoPeers               jetstream.ErrorCode = 10005
	errCodeInvalidConfig         jetstream.ErrorCode = 10052
	errCodeReplicasUnsupported   jetstream.ErrorCode = 10074 // no cluster
	errCodeMoveInProgress        jetstream.ErrorCode = 10124
	errCodeReconfigureInProgress jetstream.ErrorCode = 10226
)

var (
	errLinkLost   = errors.New("the connection to the broker was lost before it answered")
	errOverloaded = errors.New("too many messages wait to be stored")
)

// Error says why a message was not confirmed. It may be stored all the same;
// publishing it again is safe.
type Error struct {
	reason string
	err    error
}

// Reason returns one of a few words, fit for a metric's label:
//
//   - "unreachable": no connection, or no broker answers for the stream;
//   - "no_answer": the broker did not answer in time;
//   - "full": the stream or the broker's store is at its limit;
//   - "overloaded": too many messages wait already; this one was not sent;
//   - "refused": the broker refused the message for another reason.
func (e *Error) Reason() string { return e.reason }

func (e *Error) Error() string { return e.reason + ": " + e.err.Error() }

func (e *Error) Unwrap() error { return e.err }

// classify turns an error of nats.go into an [Error].
func classify(err error) *Error {
	if errors.Is(err, context.Canceled) { // as every link is in the end
		err = errLinkLost
	}
	reason := "refused"
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case errCodeStoreFailed, errCodeInsufficientResource, errCodeStorageExceeded:
			reason = "full"
		}
		return &Error{reason, err}
	}
	switch {
	case errors.Is(err, errOverloaded):
		reason = "overloaded"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		reason = "no_answer"
	case errors.Is(err, errLinkLost),
		errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrReconnectBufExceeded),
		errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, jetstream.ErrNoStreamResponse),
		ofConnection(err):
		reason = "unreachable"
	}
	return &Error{reason, err}
}

// ofConnection reports whether err is that of a write, which the client hands
// to whoever happened to fill its buffer.
func ofConnection(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.ErrClosedPipe) // an embedded broker is at the end of a pipe
}

// ConflictError says that the broker or an existing stream cannot hold the
// promise as it is configured. Only a person can change that.
type ConflictError struct {
	Stream  string
	Problem string // what is wrong, and what to do
}

func (e *ConflictError) Error() string {
	return "stream " + e.Stream + ": " + e.Problem
}

// denial returns what a permission violation denies, without the last token of a
// consumer's or an inbox's subject, which is a different one each time.
func denial(err error) string {
	text := err.Error()
	if i := strings.LastIndexByte(text, '.'); i >= 0 && !strings.Contains(text, ".STREAM.") {
		return text[:i]
	}
	return text
}
