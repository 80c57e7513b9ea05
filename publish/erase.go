package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"versive-ingress/schema"
)

// Copy is where a message is stored.
type Copy struct {
	Kind     schema.Kind
	Subject  string
	Sequence uint64
}

// Eraser removes stored messages for good. It is safe for concurrent use.
type Eraser struct {
	JetStream jetstream.JetStream
	Stream    string // name of the event stream; the others' derive from it
}

// Erase puts a tombstone behind the copy and then overwrites and deletes the
// copy. From the tombstone on, the broker refuses a resend as it has refused it
// for the copy's sake, and consumers are told.
//
// The broker overwrites without an fsync of the directory; see package embedded
// for how that becomes durable.
//
// After an error the copy may or may not be gone; erasing it again settles
// that, and never puts a second tombstone. A stream that cannot be erased from,
// or that belongs to another ingress, is a [*ConflictError], and gets no tombstone
// either.
func (e Eraser) Erase(ctx context.Context, c Copy) error {
	stream, err := e.open(ctx, c.Kind)
	if err != nil {
		return err
	}
	if err := erasable(stream.CachedInfo().Config); err != nil {
		return err
	}
	if err := e.bury(ctx, stream, c); err != nil {
		return err
	}
	return overwrite(ctx, stream, c)
}

// Bury puts a tombstone on the subject, where no copy need be: none will be
// stored there any more. If one is there, it stays.
func (e Eraser) Bury(ctx context.Context, kind schema.Kind, subject string) error {
	stream, err := e.open(ctx, kind)
	if err != nil {
		return err
	}
	return e.bury(ctx, stream, Copy{Kind: kind, Subject: subject})
}

// Delete overwrites and deletes the copy and leaves nothing in its place: a
// resend is stored again, once the duplicate window has forgotten the id.
func (e Eraser) Delete(ctx context.Context, c Copy) error {
	stream, err := e.open(ctx, c.Kind)
	if err != nil {
		return err
	}
	if err := erasable(stream.CachedInfo().Config); err != nil {
		return err
	}
	return overwrite(ctx, stream, c)
}

func (e Eraser) open(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	name := kind.Stream(e.Stream)
	stream, err := e.JetStream.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	if err := kind.CheckOwner(e.Stream, stream.CachedInfo().Config.Metadata); err != nil {
		return nil, &ConflictError{name, err.Error() + "; is INGRESS_STREAM that of the ingress?"}
	}
	// By which the client chooses: a direct get may ask a replica that is behind.
	stream.CachedInfo().Config.AllowDirect = false
	return stream, nil
}

// erasable refuses streams that an operator has made so that a copy cannot be
// overwritten.
func erasable(c jetstream.StreamConfig) error {
	switch {
	case c.DenyDelete:
		return &ConflictError{c.Name, "denies deletion (deny_delete), which cannot be undone; to erase from it, copy it to a stream that does not"}
	case c.MaxMsgsPerSubject == 1:
		return &ConflictError{c.Name, fmt.Sprintf("keeps one message a subject, so a tombstone would push the copy out without overwriting it; run: nats stream edit %s --max-msgs-per-subject=-1", c.Name)}
	}
	return nil
}

// buryWait is between attempts to put a tombstone.
const buryWait = 20 * time.Millisecond

// bury puts the tombstone, unless it is there. The broker takes it only if
// the subject's last message is the one that was seen.
func (e Eraser) bury(ctx context.Context, stream jetstream.Stream, c Copy) error {
	tombstone, err := schema.Tombstone(c.Kind, c.Subject, c.Sequence)
	if err != nil {
		return err
	}
	header := nats.Header(tombstone.Header)
	header.Set(jetstream.MsgIDHeader, tombstone.ID)
	for {
		err := e.tryBury(ctx, stream, &nats.Msg{Subject: c.Subject, Header: header})
		if err == nil {
			return nil
		}
		if !errors.Is(err, errInFlight) && !errors.Is(err, errNotPut) {
			return fmt.Errorf("putting a tombstone on %s: %w", c.Subject, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("putting a tombstone on %s: %w: %w", c.Subject, context.Cause(ctx), err)
		case <-time.After(buryWait):
		}
	}
}

// tryBury puts the tombstone once. errInFlight means that somebody was faster
// with another message on the subject, errNotPut that the tombstone is not there
// although it was acknowledged.
func (e Eraser) tryBury(ctx context.Context, stream jetstream.Stream, tombstone *nats.Msg) error {
	last, buried, err := lastOn(ctx, stream, tombstone.Subject)
	if err != nil || buried {
		return err
	}
	tombstone.Header.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(last))
	ack, err := e.JetStream.PublishMsg(ctx, tombstone)
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant, errCodeDuplicateInFlight:
			return errInFlight
		}
	}
	if err != nil {
		return err
	}
	if name := stream.CachedInfo().Config.Name; ack.Stream != name {
		return fmt.Errorf("the subject belongs to stream %s, not %s", ack.Stream, name)
	}
	if ack.Duplicate {
		// The broker remembers the message id, perhaps of a tombstone that was
		// deleted. The next attempt needs another id; the expected sequence alone
		// keeps a second tombstone out.
		tombstone.Header.Set(jetstream.MsgIDHeader, tombstone.Header.Get(jetstream.MsgIDHeader)+":"+nuid.Next())
	}
	// Another stream of this name may have answered, across a leaf node
	// connection. The copy is deleted next, so the tombstone must be seen.
	if _, buried, err = lastOn(ctx, stream, tombstone.Subject); err != nil || buried {
		return err
	}
	return fmt.Errorf("%w (JetStream domain of the acknowledgement: %q)", errNotPut, ack.Domain)
}

var errNotPut = errors.New("the tombstone was acknowledged, but is not in the stream")

// lastOn returns the sequence of the last message on a subject, 0 if there is
// none, and whether it is a tombstone.
func lastOn(ctx context.Context, stream jetstream.Stream, subject string) (sequence uint64, tombstone bool, err error) {
	last, err := stream.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	return last.Sequence, schema.IsTombstone(last.Header), nil
}

// overwrite fills the copy's bytes with random ones before it deletes it.
func overwrite(ctx context.Context, stream jetstream.Stream, c Copy) error {
	err := stream.SecureDeleteMsg(ctx, c.Sequence)
	if err == nil {
		return nil
	}
	_, found := stream.GetMsg(ctx, c.Sequence)
	gone := errors.Is(found, jetstream.ErrMsgNotFound)
	if gone && errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return nil // it was gone already, says the broker
	}
	err = fmt.Errorf("deleting message %d of stream %s: %w", c.Sequence, stream.CachedInfo().Config.Name, err)
	if gone {
		// The broker notes the deletion before it overwrites.
		err = fmt.Errorf("%w; it is deleted, but perhaps not overwritten; run erase again", err)
	}
	return err
}
