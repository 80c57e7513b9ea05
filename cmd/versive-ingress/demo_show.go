package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/subscribe"
)

// showOnce posts the sample twice to url and shows what a consumer receives. It
// returns an error if that is anything but the event, once.
func showOnce(ctx context.Context, out io.Writer, url, secret string, settings config.Settings) error {
	s, err := sender.New(url, secret)
	if err != nil {
		return err
	}
	id := sender.NewID()
	first, err := s.Post(ctx, id, time.Now(), sample)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "A signed webhook is posted:         ", first)
	second, err := s.Post(ctx, id, time.Now(), sample)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "The same webhook is posted again:   ", second)
	if first.Outcome != "stored" || second.Outcome != "duplicate" || second.Sequence != first.Sequence {
		return errors.New("want the first stored, and the second a duplicate of it")
	}

	received, err := consume(ctx, settings)
	if err != nil {
		return fmt.Errorf("reading the stream: %w", err)
	}
	fmt.Fprintf(out, "A consumer of the stream receives:   %d event\n\n", len(received))
	if len(received) != 1 {
		return fmt.Errorf("want 1 event in the stream, got %d", len(received))
	}
	return show(out, received[0], id)
}

// consume reads the whole stream as any other service would, over TCP.
func consume(ctx context.Context, settings config.Settings) (received []subscribe.Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := broker.Open(ctx, settings, "demo")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for m, err := range conn.Source.Range(ctx, subscribe.Selection{}) {
		if err != nil {
			return nil, err
		}
		received = append(received, m)
	}
	return received, nil
}

// show prints a message and checks that it is the event that was sent.
func show(out io.Writer, m subscribe.Message, id string) error {
	event, err := m.Event()
	if err != nil {
		return err
	}
	data := jsontext.Value(m.Data).Clone()
	if err := data.Indent(jsontext.WithIndentPrefix("  "), jsontext.WithIndent("  ")); err != nil {
		return err
	}
	fmt.Fprintf(out, "  subject   %s\n  id        %s\n  sequence  %d\n  %s\n\n", m.Subject, event.ID, m.Sequence, data)
	if event.ID != id || event.InterviewID != sampleInterview {
		return errors.New("the event is not the one that was sent")
	}
	return nil
}
