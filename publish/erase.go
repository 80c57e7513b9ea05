package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"versive-ingress/schema"
)

// Copy identifies a stored message.
type Copy struct {
	Kind     schema.Kind
	Subject  string
	Sequence uint64
}

// Eraser permanently removes stored messages. All fields must be set. It is safe for
// concurrent use.
type Eraser struct {
	JetStream jetstream.JetStream
	Stream    string // name of the event stream; those of the other streams derive from it
	CLI       string // as in Config
}

// Erase puts a tombstone after the copy and then overwrites and deletes the copy.
// The tombstone notifies consumers, and makes the broker reject a resend as the copy
// did. In the event stream it names the organization that the copy names.
//
// The broker overwrites without an fsync of the directory; Erased in package
// embedded makes that durable.
//
// After an error the copy may or may not be deleted; erasing it again is safe and
// never puts a second tombstone. If the stream does not allow erasure, or belongs to
// another ingress, Erase returns a [*ConflictError] and puts no tombstone.
func (e Eraser) Erase(ctx context.Context, c Copy) error {
	stream, err := e.Erasable(ctx, c.Kind)
	if err != nil {
		return err
	}
	if err := e.putTombstone(ctx, stream, c); err != nil {
		return err
	}
	return overwrite(ctx, stream, c)
}

// PutTombstone puts a tombstone on a subject, so that no message will be stored
// there. A copy need not exist; if one does, it stays. If the stream belongs to
// another ingress, the error is a [*ConflictError].
func (e Eraser) PutTombstone(ctx context.Context, kind schema.Kind, subject string) error {
	stream, err := e.open(ctx, kind)
	if err != nil {
		return err
	}
	return e.putTombstone(ctx, stream, Copy{Kind: kind, Subject: subject})
}

// EraseSubject erases what is stored on a subject, which may be nothing, and leaves a
// tombstone there: an erasure from another stream. It also erases a copy that has another
// first token, from before INGRESS_SUBJECT was changed, and with an event its quarantined
// webhook and its dead letters. It returns the copies that it has deleted, even if it
// returns an error. A stream of dead letters need not exist.
func (e Eraser) EraseSubject(ctx context.Context, kind schema.Kind, subject string) (erased []Copy, err error) {
	if erased, err = e.eraseSubject(ctx, kind, subject); err != nil {
		return erased, err
	}
	patterns := map[schema.Kind]string{kind: "*" + subject[strings.IndexByte(subject, '.'):]}
	if kind == schema.KindEvent {
		id := subject[strings.LastIndexByte(subject, '.'):]
		patterns[schema.KindQuarantine], patterns[schema.KindDead] = "*"+id, "*.*"+id
	}
	for kind, pattern := range patterns {
		related, err := e.subjects(ctx, kind, pattern)
		if err != nil {
			return erased, err
		}
		for _, subject := range related {
			more, err := e.eraseSubject(ctx, kind, subject)
			if erased = append(erased, more...); err != nil {
				return erased, err
			}
		}
	}
	return erased, nil
}

func (e Eraser) eraseSubject(ctx context.Context, kind schema.Kind, subject string) (erased []Copy, err error) {
	stream, err := e.Erasable(ctx, kind)
	if kind == schema.KindDead && errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	last, err := LastMessage(ctx, stream, subject)
	if err == nil {
		err = e.putTombstone(ctx, stream, Copy{kind, subject, last.Sequence})
	}
	if err != nil {
		return nil, err
	}
	for msg, err := range onSubject(ctx, stream, subject) {
		if err == nil && !schema.IsTombstone(msg.Header) {
			c := Copy{kind, subject, msg.Sequence}
			if err = overwrite(ctx, stream, c); err == nil {
				erased = append(erased, c)
			}
		}
		if err != nil {
			return erased, err
		}
	}
	return erased, nil
}

// subjects returns the subjects of a pattern on which there is something to erase.
func (e Eraser) subjects(ctx context.Context, kind schema.Kind, pattern string) (list []string, err error) {
	stream, err := e.open(ctx, kind)
	if kind == schema.KindDead && errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for msg, err := range onSubject(ctx, stream, pattern) {
		if err != nil {
			return nil, err
		}
		if !schema.IsTombstone(msg.Header) && !slices.Contains(list, msg.Subject) {
			list = append(list, msg.Subject)
		}
	}
	return list, nil
}

// Delete overwrites and deletes the copy without a tombstone: a resend after the
// duplicate window is stored again. Its errors are those of [Eraser.Erase].
func (e Eraser) Delete(ctx context.Context, c Copy) error {
	stream, err := e.Erasable(ctx, c.Kind)
	if err != nil {
		return err
	}
	return overwrite(ctx, stream, c)
}

// open opens the stream of a kind of message for look-ups that ask its leader.
func (e Eraser) open(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	name := kind.Stream(e.Stream)
	stream, err := OpenStream(ctx, e.JetStream, name)
	if err != nil {
		return nil, err
	}
	if err := kind.CheckOwner(e.Stream, stream.CachedInfo().Config.Metadata); err != nil {
		return nil, &ConflictError{name, err.Error() + "; is INGRESS_STREAM that of the ingress?"}
	}
	return stream, nil
}

// Erasable opens the stream of a kind of message for look-ups that ask its leader. It
// returns a [*ConflictError] if the stream belongs to another ingress, or if an operator
// has configured it so that a copy cannot be overwritten.
func (e Eraser) Erasable(ctx context.Context, kind schema.Kind) (jetstream.Stream, error) {
	stream, err := e.open(ctx, kind)
	if err != nil {
		return nil, err
	}
	switch c := stream.CachedInfo().Config; {
	case c.DenyDelete:
		return nil, &ConflictError{c.Name, "denies deletion (deny_delete), which cannot be undone; to erase from it, copy it to a stream that allows deletion"}
	case c.MaxMsgsPerSubject == 1:
		return nil, &ConflictError{c.Name, fmt.Sprintf("keeps one message per subject, so a tombstone would displace the copy without overwriting it; run: %s", Config{CLI: e.CLI}.edit(c.Name, "--max-msgs-per-subject=-1"))}
	}
	return stream, nil
}

// Deleted returns those of the sequences that the broker counts as deleted. The others must
// not be overwritten: the dead letter of a tombstone stands for another tombstone, which
// stays, and a message that cannot be read now may be readable later.
func Deleted(ctx context.Context, stream jetstream.Stream, sequences []uint64) (gone []uint64, err error) {
	if len(sequences) == 0 {
		return nil, nil
	}
	info, err := ReadState(ctx, stream, jetstream.WithDeletedDetails(true))
	if err != nil {
		return nil, err
	}
	present := schema.SequenceRange(max(info.State.FirstSeq, 1), info.State.LastSeq).Minus(schema.SequencesOf(info.State.Deleted))
	for _, sequence := range sequences {
		if !present.Has(sequence) {
			gone = append(gone, sequence)
		}
	}
	return gone, nil
}

// tombstoneWait is the time between attempts to put a tombstone.
const tombstoneWait = 20 * time.Millisecond

// putTombstone puts a tombstone for the copy, unless the subject has one, with the
// subject's last sequence as a condition. After an acknowledgement it looks the
// tombstone up: another stream of the same name may have answered, across a leaf node
// connection, and the copy is deleted next.
func (e Eraser) putTombstone(ctx context.Context, stream jetstream.Stream, c Copy) error {
	tombstone, err := schema.Tombstone(c.Kind, c.Subject, c.Sequence)
	if err != nil {
		return err
	}
	msg := &nats.Msg{Subject: c.Subject, Header: tombstone.Header}
	msg.Header.Set(jetstream.MsgIDHeader, tombstone.ID)
	for wait := time.Duration(0); ; wait = tombstoneWait {
		last, err := LastMessage(ctx, stream, c.Subject)
		if err == nil && schema.IsTombstone(last.Header) {
			return nil
		}
		var ack *jetstream.PubAck
		if err == nil {
			if c.Kind == schema.KindEvent { // the other tombstones hold nothing of an event
				tombstone.WithOrganization(schema.Organization(last.Header)) // in the header of msg
			}
			msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(last.Sequence))
			ack, err = e.JetStream.PublishMsg(ctx, msg)
		}
		switch name := stream.CachedInfo().Config.Name; {
		case isInFlight(err): // another message was stored on the subject in between
		case err != nil:
			return e.tombstoneError(stream, c.Subject, err)
		case ack.Stream != name:
			return fmt.Errorf("putting a tombstone on %s: the subject belongs to stream %s, not %s", c.Subject, ack.Stream, name)
		case ack.Duplicate:
			// The message id is in the duplicate window, for example of a tombstone that
			// was deleted. The next attempt needs another id; the condition suffices to
			// prevent a second tombstone.
			msg.Header.Set(jetstream.MsgIDHeader, tombstone.ID+":"+nuid.Next())
		}
		if sleep(ctx, wait) != nil {
			if err == nil {
				err = fmt.Errorf("it was acknowledged, but is not in the stream (JetStream domain of the acknowledgement: %q)", ack.Domain)
			}
			return fmt.Errorf("putting a tombstone on %s: %w: %w", c.Subject, context.Cause(ctx), err)
		}
	}
}

// tombstoneRoom is enough room for the tombstones of an erasure, each of which needs less
// than its copy, which is deleted next.
const tombstoneRoom = 1 << 20

// tombstoneError returns the [*Error] of a tombstone that was not stored, with a remedy if
// there is no room for it.
func (e Eraser) tombstoneError(stream jetstream.Stream, subject string, err error) error {
	failure, info := classify(err), stream.CachedInfo()
	if failure.reason == "full" {
		remedy := "raise INGRESS_MAX_STORE by 1MiB and restart the ingress, or raise max_file_store or the limit of the account at an external broker"
		switch limits, state := info.Config, info.State; {
		case limits.MaxMsgs > 0 && state.Msgs >= uint64(limits.MaxMsgs):
			remedy = "run: " + Config{CLI: e.CLI}.edit(limits.Name, fmt.Sprintf("--max-msgs=%d", limits.MaxMsgs+100))
		case limits.MaxBytes > 0 && state.Bytes+tombstoneRoom > uint64(limits.MaxBytes):
			remedy = "run: " + Config{CLI: e.CLI}.edit(limits.Name, fmt.Sprintf("--max-bytes=%d", limits.MaxBytes+tombstoneRoom))
		}
		failure = &Error{"full", fmt.Errorf("%w; an erasure needs some room before it frees more: %s, and erase again", err, remedy)}
	}
	return fmt.Errorf("putting a tombstone on %s: %w", subject, failure)
}

// LastMessage returns the last message on a subject, with wildcards or without. Its sequence
// is 0 if there is none.
func LastMessage(ctx context.Context, stream jetstream.Stream, subject string) (*jetstream.RawStreamMsg, error) {
	last, err := stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return &jetstream.RawStreamMsg{}, nil
	}
	return last, err
}

// overwrite overwrites the copy with random bytes and deletes it.
func overwrite(ctx context.Context, stream jetstream.Stream, c Copy) error {
	err := stream.SecureDeleteMsg(ctx, c.Sequence)
	if err == nil {
		return nil
	}
	_, found := stream.GetMsg(ctx, c.Sequence)
	gone := errors.Is(found, jetstream.ErrMsgNotFound)
	if gone && errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return nil // it was deleted before
	}
	err = fmt.Errorf("deleting message %d of stream %s: %w", c.Sequence, stream.CachedInfo().Config.Name, classify(err))
	if gone {
		// The broker records the deletion before it overwrites.
		err = fmt.Errorf("%w; it is deleted but may not be overwritten; run erase again", err)
	}
	return err
}
