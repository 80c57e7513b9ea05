// Package held works on what waits for an operator: the webhooks in the quarantine, and
// the dead letters.
package held

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A Kept message is a quarantined webhook or a dead letter, without its body.
type Kept struct {
	subscribe.Message
	erased bool // it has a tombstone: its deletion was interrupted

	request  uint64    // the sequence of the request to requeue a dead letter; 0 if there is none
	requeued time.Time // when it was stored
}

// reason returns the category of a webhook, or the error that a dead letter records.
func (k Kept) reason() string {
	return schema.DecodeReason(k.Header)
}

func (k Kept) description() string { return k.Header.Get(schema.HeaderDescription) }

// consumer returns the consumer that has given up on a dead letter.
func (k Kept) consumer() string {
	consumer, _, _ := schema.ParseDeadLetter(k.Subject)
	return consumer
}

// Read returns what is kept in the stream of a kind, the newest last, and the ids of
// what has a tombstone there.
func Read(ctx context.Context, c *broker.Connection, kind schema.Kind) (list []Kept, erased map[string]bool, err error) {
	erased = make(map[string]bool)
	tombstones, requests := make(map[string]bool), make(map[uint64]subscribe.Message)
	for m, err := range c.Source.Range(ctx, subscribe.Selection{Kind: kind, Subject: broker.AnySubject, HeadersOnly: true}) {
		switch {
		case kind == schema.KindDead && errors.Is(err, jetstream.ErrStreamNotFound): // no consumer has given up on anything
			_, err := publish.OpenStream(ctx, c.JetStream, c.Settings.Stream) // unless there is no ingress of that name
			return nil, nil, err
		case err != nil:
			return nil, nil, err
		case schema.IsSettled(m.Header):
			tombstones[m.Subject], erased[m.ID] = true, true
		case schema.RequeuedLetter(m.Header) > 0:
			requests[schema.RequeuedLetter(m.Header)] = m
		case m.Header.Get(schema.HeaderReason) == "":
			// Neither a webhook nor a dead letter, but what another ingress has stored here
			// with an older version, which let two of them share a stream.
		default:
			list = append(list, Kept{Message: m})
		}
	}
	for i, k := range list {
		list[i].erased = tombstones[k.Subject] && !k.Erased() // the dead letter of a tombstone stays
		list[i].request, list[i].requeued = requests[k.Sequence].Sequence, requests[k.Sequence].Time
	}
	return list, erased, nil
}

// A Choice selects what is kept in the stream of a kind: either by IDs, or all of it.
type Choice struct {
	Kind     schema.Kind // KindQuarantine or KindDead
	IDs      []string
	All      bool
	Reason   string // restricts All to webhooks with one reason; "" is every reason
	Consumer string // restricts the choice to the dead letters of one consumer; "" is every consumer
}

// check refuses a choice of nothing, and one that is ambiguous.
func (choice *Choice) check() error {
	reasons := []string{"", string(schema.Malformed), string(schema.UnsupportedType), string(schema.Invalid)}
	switch {
	case !slices.Contains(reasons, choice.Reason):
		return fmt.Errorf("--reason %q: want %s", choice.Reason, strings.Join(reasons[1:], ", "))
	case choice.Reason != "" && !choice.All:
		return errors.New("--reason requires --all")
	case choice.All == (len(choice.IDs) > 0):
		return fmt.Errorf("want either --all or IDs, which %s list prints", commandOf(choice.Kind))
	}
	return nil
}

func (choice *Choice) selects(k Kept) bool {
	return (choice.All || slices.Contains(choice.IDs, k.ID)) &&
		(choice.Reason == "" || k.reason() == choice.Reason) && (choice.Consumer == "" || k.consumer() == choice.Consumer)
}

func commandOf(kind schema.Kind) string {
	return map[schema.Kind]string{schema.KindQuarantine: "quarantine", schema.KindDead: "deadletters"}[kind]
}

// placeOf names where a kind is kept, for messages.
func placeOf(kind schema.Kind) string {
	return map[schema.Kind]string{schema.KindQuarantine: "in the quarantine", schema.KindDead: "among the dead letters"}[kind]
}

// Chosen is what a choice selects, and the connection by which it was read.
type Chosen struct {
	*broker.Connection
	Kind schema.Kind
	List []Kept
}

// Open connects to the broker and finds what a choice selects. An id that is not there
// is an error: it may be misspelt.
func Open(ctx context.Context, choice Choice) (*Chosen, error) {
	if err := choice.check(); err != nil {
		return nil, err
	}
	c, err := broker.Dial(ctx, commandOf(choice.Kind))
	if err != nil {
		return nil, err
	}
	list, erased, err := Read(ctx, c, choice.Kind)
	for i, id := range choice.IDs {
		id = strings.TrimSpace(id) // copied from a table
		choice.IDs[i] = id
		other := slices.IndexFunc(list, func(k Kept) bool { return k.ID == id })
		switch {
		case err != nil, slices.ContainsFunc(list, func(k Kept) bool { return k.ID == id && choice.selects(k) }):
		case other >= 0:
			err = fmt.Errorf("%s is not among the dead letters of consumer %s, but of %s", id, choice.Consumer, list[other].consumer())
		case erased[id] && choice.Kind == schema.KindQuarantine:
			err = fmt.Errorf("%s is no longer in the quarantine: it was requeued, discarded or erased", id)
		case erased[id]:
			err = fmt.Errorf("%s was erased", id)
		default:
			remedy := fmt.Sprintf("; versive-ingress %s list prints the svix-ids", commandOf(choice.Kind))
			if i := slices.IndexFunc(list, func(k Kept) bool { return strings.EqualFold(k.ID, id) }); i >= 0 {
				remedy = fmt.Sprintf(", %s is: %s", list[i].ID, broker.CaseSensitive)
			}
			err = fmt.Errorf("%s is not %s%s", id, placeOf(choice.Kind), remedy)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return &Chosen{c, choice.Kind, slices.DeleteFunc(list, func(k Kept) bool { return !choice.selects(k) })}, nil
}

// Body reads the body of what is kept.
func (c *Chosen) Body(ctx context.Context, k Kept) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	name := c.Kind.Stream(c.Settings.Stream)
	stream, err := publish.OpenStream(ctx, c.JetStream, name)
	if err != nil {
		return nil, err
	}
	msg, err := stream.GetMsg(ctx, k.Sequence)
	if err != nil {
		return nil, fmt.Errorf("reading message %d of stream %s: %w", k.Sequence, name, err)
	}
	return msg.Data, nil
}
