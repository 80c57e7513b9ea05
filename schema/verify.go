package schema

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrForeign means that a stored message is neither an event, a quarantined body, a dead
// letter nor a tombstone: another program has published it.
var ErrForeign = errors.New("it was not stored by an ingress or a consumer")

// Verify returns an error if the subject, the header and the data of a message that is
// stored in the stream of a kind do not agree, or [ErrForeign]. Its text contains nothing
// of the data. The first token of the subject, headers that other versions may add, and
// the body in a quarantined message or a dead letter are not verified.
func Verify(kind Kind, subject string, header map[string][]string, data []byte) error {
	_, tokens, _ := strings.Cut(subject, ".")
	want := Message{tokens: tokens} // what would be stored
	id, err := ParseID(subject)
	switch {
	case IsSettled(header):
		want, err = verifyTombstone(kind, subject, header, data)
	case kind == KindDead && RequeuedLetter(header) > 0:
		token, _, _ := strings.Cut(tokens, ".")
		var consumer string
		if consumer, err = Unescape(token); err == nil {
			want = Requeue(consumer, id, RequeuedLetter(header))
		}
	case kind == KindEvent && !strings.HasPrefix(first(header, headerDataSchema), urnPrefix),
		kind == KindQuarantine && first(header, HeaderReason) == "",
		kind == KindDead && first(header, HeaderDeadSubject) == "":
		return ErrForeign
	case err != nil: // the subject has no id
	case kind == KindEvent:
		want, err = Normalize(id, data)
	case kind == KindQuarantine:
		want.ID, want.tokens = id, Escape(id)
		for _, name := range [...]string{"Svix-Id", "Webhook-Id"} {
			if values := header[HeaderHTTP+name]; len(values) > 0 && !slices.Contains(values, encodeHeader(id)) {
				err = fmt.Errorf("%s%s is not the id of the subject", HeaderHTTP, name)
			}
		}
	case kind == KindDead:
		consumer, rest, _ := strings.Cut(tokens, ".")
		want.ID = tokens + ":" + first(header, HeaderDeadSequence)
		if _, err = Unescape(consumer); err == nil && rest != Escape(id) {
			err = errors.New("want <prefix>.<consumer>.<id>")
		}
		if eventID, failed := ParseID(first(header, HeaderDeadSubject)); failed == nil && eventID != id {
			err = errors.New(HeaderDeadSubject + " has another id than the subject")
		}
	}
	if err != nil {
		return err
	}
	if want.tokens != tokens {
		return errors.New("the subject does not agree with the data")
	}
	if want.Header != nil {
		want = want.WithOrganization(Organization(header))
		for _, name := range attributes {
			if !slices.Equal(header[name], want.Header[name]) {
				return fmt.Errorf("%s does not agree with the subject and the data", name)
			}
		}
	}
	if stored := first(header, "Nats-Msg-Id"); stored != "" && want.ID != "" && stored != want.ID {
		return errors.New("Nats-Msg-Id does not agree with the subject")
	}
	return nil
}

// verifyTombstone returns the tombstone that Verify compares with, without an ID.
func verifyTombstone(kind Kind, subject string, header map[string][]string, data []byte) (Message, error) {
	ceID := decodeHeader(first(header, headerID))
	sequence, _ := strconv.ParseUint(ceID[strings.LastIndexByte(ceID, ':')+1:], 10, 64)
	m, err := Tombstone(kind, subject, sequence)
	if err == nil && len(data) > 0 {
		err = errors.New("it is a tombstone and has data")
	}
	m.ID = "" // may be followed by a nonce
	return m, err
}
