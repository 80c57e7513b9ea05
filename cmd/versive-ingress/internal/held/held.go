// Package held works on what waits for an operator: the webhooks in the quarantine.
package held

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A Kept webhook is one in the quarantine, without its body.
type Kept struct {
	subscribe.Message
	erased bool // it has a tombstone: an erasure was interrupted
}

func (k Kept) reason() string      { return k.Header.Get(schema.HeaderReason) }
func (k Kept) description() string { return k.Header.Get(schema.HeaderDescription) }

// Read returns what the quarantine keeps, the newest last, and the ids of webhooks
// that were erased from it.
func Read(ctx context.Context, c *broker.Connection) (list []Kept, erased map[string]bool, err error) {
	erased = make(map[string]bool)
	for m, err := range c.Source.Range(ctx, subscribe.Selection{Kind: schema.KindQuarantine, Subject: broker.AnySubject, HeadersOnly: true}) {
		switch {
		case err != nil:
			return nil, nil, err
		case m.Erased():
			erased[m.ID] = true
		case m.Header.Get(schema.HeaderReason) == "":
			// Not a quarantined webhook, but what another ingress has stored here with
			// an older version, which let two of them share a stream.
		default:
			list = append(list, Kept{Message: m})
		}
	}
	for i := range list {
		list[i].erased = erased[list[i].ID]
	}
	return list, erased, nil
}

// A Choice selects quarantined webhooks: either by IDs, or all of them.
type Choice struct {
	IDs    []string
	All    bool
	Reason string // restricts All to one reason; "" is every reason
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
		return errors.New("want either --all or IDs, which quarantine list prints")
	}
	return nil
}

// Chosen are webhooks of the quarantine, and the connection by which they were read.
type Chosen struct {
	*broker.Connection
	List []Kept
}

// Open connects to the broker and finds the webhooks of a choice. An id that is not
// there is an error: it may be misspelt.
func Open(ctx context.Context, choice Choice) (*Chosen, error) {
	if err := choice.check(); err != nil {
		return nil, err
	}
	c, err := broker.Dial(ctx, "quarantine")
	if err != nil {
		return nil, err
	}
	list, erased, err := Read(ctx, c)
	for _, id := range choice.IDs {
		switch {
		case err != nil, slices.ContainsFunc(list, func(k Kept) bool { return k.ID == id }):
		case erased[id]:
			err = fmt.Errorf("%s was erased", id)
		default:
			err = fmt.Errorf("%s is not in the quarantine", id)
			if i := slices.IndexFunc(list, func(k Kept) bool { return strings.EqualFold(k.ID, id) }); i >= 0 {
				err = fmt.Errorf("%w, %s is: %s", err, list[i].ID, broker.CaseSensitive)
			}
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return &Chosen{c, slices.DeleteFunc(list, func(k Kept) bool {
		return !choice.All && !slices.Contains(choice.IDs, k.ID) || choice.Reason != "" && k.reason() != choice.Reason
	})}, nil
}

// Body reads the body of a webhook.
func (c *Chosen) Body(ctx context.Context, k Kept) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	name := schema.KindQuarantine.Stream(c.Settings.Stream)
	stream, err := c.JetStream.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	publish.ReadFromLeader(stream)
	msg, err := stream.GetMsg(ctx, k.Sequence)
	if err != nil {
		return nil, fmt.Errorf("reading message %d of stream %s: %w", k.Sequence, name, err)
	}
	return msg.Data, nil
}
