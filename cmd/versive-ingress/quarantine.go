package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func quarantineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "Look at what was authentic but not understood, and settle it",
		Long: `The quarantine keeps webhooks that were authentic but not understood, byte for
byte: of a new event type, with a member of another type, or not JSON.

When a newer version understands them, requeue turns them into events under
the ids that they came with. What will never be one is discarded.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(listCommand(), showCommand(), requeueCommand(), discardCommand())
	return cmd
}

// A kept webhook is one in the quarantine, without its body.
type kept struct {
	subscribe.Message
	erased bool // a tombstone is behind it: an erasure that was interrupted
}

func (k kept) reason() string      { return k.Header.Get(schema.HeaderReason) }
func (k kept) description() string { return k.Header.Get(schema.HeaderDescription) }
func (k kept) copy() publish.Copy  { return broker.CopyOf(schema.KindQuarantine, k.Message) }

// readQuarantine returns what the quarantine keeps, the newest last, and the
// ids of those that were erased from it.
func readQuarantine(ctx context.Context, c *broker.Connection) (list []kept, erased map[string]bool, err error) {
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
			list = append(list, kept{Message: m})
		}
	}
	for i := range list {
		list[i].erased = erased[list[i].ID]
	}
	return list, erased, nil
}

// A choice names some of the quarantine: by their ids, or all of a reason.
type choice struct {
	ids    []string
	all    bool
	reason string
}

func (w *choice) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.all, "all", false, "all of them")
	cmd.Flags().StringVar(&w.reason, "reason", "", "with --all: only those kept for this reason (malformed, unsupported_type, invalid)")
}

// check refuses what chooses nothing, or could be meant otherwise.
func (w *choice) check() error {
	reasons := []string{"", string(schema.Malformed), string(schema.UnsupportedType), string(schema.Invalid)}
	switch {
	case !slices.Contains(reasons, w.reason):
		return fmt.Errorf("--reason %q: want %s", w.reason, strings.Join(reasons[1:], ", "))
	case w.reason != "" && !w.all:
		return errors.New("--reason: it narrows --all; say both")
	case w.all == (len(w.ids) > 0):
		return errors.New("say which: either ids, as quarantine list prints them, or --all")
	}
	return nil
}

// choose returns the chosen webhooks. An id that is not there is an error: it
// may be misspelt.
func choose(ctx context.Context, c *broker.Connection, w choice) ([]kept, error) {
	list, erased, err := readQuarantine(ctx, c)
	if err != nil {
		return nil, err
	}
	if w.all {
		return slices.DeleteFunc(list, func(k kept) bool { return w.reason != "" && k.reason() != w.reason }), nil
	}
	for _, id := range w.ids {
		switch {
		case slices.ContainsFunc(list, func(k kept) bool { return k.ID == id }):
		case erased[id]:
			return nil, fmt.Errorf("%s was erased", id)
		default:
			return nil, fmt.Errorf("%s is not in the quarantine", id)
		}
	}
	return slices.DeleteFunc(list, func(k kept) bool { return !slices.Contains(w.ids, k.ID) }), nil
}

// readBody reads the body of a kept webhook.
func readBody(ctx context.Context, c *broker.Connection, sequence uint64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	name := schema.KindQuarantine.Stream(c.Settings.Stream)
	stream, err := c.JetStream.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	publish.ReadFromLeader(stream)
	msg, err := stream.GetMsg(ctx, sequence)
	if err != nil {
		return nil, fmt.Errorf("reading message %d of stream %s: %w", sequence, name, err)
	}
	return msg.Data, nil
}
