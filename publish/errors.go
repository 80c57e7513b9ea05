package publish

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of JetStream that nats.go does not define.
const (
	errCodeDuplicateInFlight     jetstream.ErrorCode = 10158
	errCodeAccountExceeded       jetstream.ErrorCode = 10002
	errCodeInsufficientResource  jetstream.ErrorCode = 10023
	errCodeStoreFailed           jetstream.ErrorCode = 10077 // full by bytes or messages, among others
	errCodeStorageExceeded       jetstream.ErrorCode = 10047
	errCodeNoPeers               jetstream.ErrorCode = 10005
	errCodeInvalidConfig         jetstream.ErrorCode = 10052
	errCodeSubjectOverlap        jetstream.ErrorCode = 10065
	errCodeMaxBytesRequired      jetstream.ErrorCode = 10113
	errCodeReplicasUnsupported   jetstream.ErrorCode = 10074 // no cluster
	errCodeMoveInProgress        jetstream.ErrorCode = 10124
	errCodeReconfigureInProgress jetstream.ErrorCode = 10226
)

var (
	errDisconnected = errors.New("the connection to the broker was lost before it answered")
	errOverloaded   = errors.New("too many messages wait to be stored")
)

// An unwritableError is an error of Config.Ready, Config.Durable or Config.Sync.
type unwritableError struct{ err error }

func (e *unwritableError) Error() string { return "the broker cannot store messages: " + e.err.Error() }

func (e *unwritableError) Unwrap() error { return e.err }

// Error is the reason why a message was not confirmed. The message may be stored
// nevertheless; publishing it again is safe.
type Error struct {
	reason string
	err    error
}

// Reason returns one of the following words, suitable for a metric label:
//
//   - "unreachable": there is no connection, or no broker answers for the stream;
//   - "no_answer": the broker did not answer in time;
//   - "full": the stream, the account or the broker's store is at its limit, or its
//     disk is full;
//   - "overloaded": too many messages are waiting; this one was not sent;
//   - "refused": the message was rejected for another reason.
func (e *Error) Reason() string { return e.reason }

func (e *Error) Error() string { return e.reason + ": " + e.err.Error() }

func (e *Error) Unwrap() error { return e.err }

// classify turns an error of nats.go into an [Error].
func classify(err error) *Error {
	if errors.Is(err, context.Canceled) { // the session has ended
		err = errDisconnected
	}
	if _, ok := errors.AsType[*unwritableError](err); ok {
		if errors.Is(err, syscall.ENOSPC) {
			return &Error{"full", err}
		}
		return &Error{"unreachable", err}
	}
	reason := "refused"
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case errCodeStoreFailed, errCodeAccountExceeded, errCodeInsufficientResource, errCodeStorageExceeded:
			reason = "full"
		}
		return &Error{reason, err}
	}
	switch {
	case errors.Is(err, errOverloaded):
		reason = "overloaded"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		reason = "no_answer"
	case errors.Is(err, errDisconnected),
		errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrReconnectBufExceeded),
		errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, jetstream.ErrNoStreamResponse),
		isWriteError(err):
		reason = "unreachable"
	}
	return &Error{reason, err}
}

// isInFlight reports whether the broker has refused a message because another one with
// its id or on its subject is stored, or on its way into the stream.
func isInFlight(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return false
	}
	switch api.ErrorCode {
	case errCodeDuplicateInFlight, jetstream.JSErrCodeStreamWrongLastSequenceConstant, jetstream.JSErrCodeStreamWrongLastSequence:
		return true
	}
	return false
}

// isWriteError reports whether err is a write error; nats.go returns it to whichever
// caller flushed its buffer.
func isWriteError(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.ErrClosedPipe) // of the pipe to an embedded broker
}

// ConflictError means that the broker or an existing stream is configured so that it
// cannot hold the promise. An operator must resolve it.
type ConflictError struct {
	Stream  string
	Problem string // what is wrong, and what to do
}

func (e *ConflictError) Error() string {
	return "stream " + e.Stream + ": " + e.Problem
}
