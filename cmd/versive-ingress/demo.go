package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/schema"
)

func demoCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the ingress at work, without any setup",
		Long: `Run the ingress on an embedded broker, on loopback only, with a generated secret
and a temporary data directory. Post a signed sample to it over HTTP, post the
same again, and print what a consumer of the stream receives: one event.

The demo then serves until Ctrl-C; with --once it ends. It ignores the settings
in the environment, and uses free ports if the default ones are taken.

EXIT STATUS
  0  the sample was stored once, and a consumer received it
  1  it was not, or the ingress could not be started`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), once)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the sample was consumed")
	return cmd
}

func demo(ctx context.Context, out, logs io.Writer, once bool) (err error) {
	for _, f := range config.Fields() {
		os.Unsetenv(f.Name) // of a serve; the demo is the same everywhere
	}
	os.Unsetenv("OTEL_TRACES_EXPORTER")
	settings, err := config.Read()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "versive-ingress-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	secret := config.NewSecret()
	settings.Secrets = []string{secret}
	settings.Listen = freeAddress("127.0.0.1:8080")
	settings.AdminListen = freeAddress("127.0.0.1:9090")
	settings.NATSListen = freeAddress("127.0.0.1:4222")
	settings.DataDir = dir
	settings.LogLevel = slog.LevelWarn
	if err := settings.Check(); err != nil {
		return err
	}

	ingress, err := start(ctx, settings, newLogger(settings, logs))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "The ingress is running on an embedded broker, for this machine only.\n\n")
	fmt.Fprintf(out, "  webhooks     %s\n  subscribers  %s\n\n", ingress.url, ingress.broker.URL())
	if err := showOnce(ctx, out, ingress, secret); err != nil {
		ingress.stop()
		return err
	}
	if once {
		ingress.stop()
		return nil
	}
	fmt.Fprintf(out, "Post more:\n  %s send --secret %s %s\n\n", programName(), secret, ingress.url)
	fmt.Fprintf(out, "Read them with the nats CLI:\n  nats --server %s subscribe --stream %s --all '%s.>'\n\n", ingress.broker.URL(), settings.Stream, settings.Subject)
	fmt.Fprintln(out, "Serving until Ctrl-C.")
	return ingress.wait(ctx)
}

// showOnce posts the sample twice and shows what a consumer receives. It
// returns an error if that is anything but the event, once.
func showOnce(ctx context.Context, out io.Writer, i *ingress, secret string) error {
	s := sender.Sender{URL: i.url}
	if err := s.SignWith(secret); err != nil {
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

	received, err := consume(ctx, i)
	if err != nil {
		return fmt.Errorf("reading the stream: %w", err)
	}
	fmt.Fprintf(out, "A consumer of the stream receives:   %d event\n\n", len(received))
	if len(received) != 1 {
		return fmt.Errorf("want 1 event in the stream, got %d", len(received))
	}
	return show(out, received[0], id)
}

// show prints a message and checks that it is the event that was sent.
func show(out io.Writer, msg jetstream.Msg, id string) error {
	event, err := schema.Decode(msg.Headers(), msg.Data())
	if err != nil {
		return err
	}
	metadata, err := msg.Metadata()
	if err != nil {
		return err
	}
	data := jsontext.Value(msg.Data()).Clone()
	if err := data.Indent(jsontext.WithIndentPrefix("  "), jsontext.WithIndent("  ")); err != nil {
		return err
	}
	fmt.Fprintf(out, "  subject   %s\n  id        %s\n  sequence  %d\n  %s\n\n", msg.Subject(), event.ID, metadata.Sequence.Stream, data)
	if event.ID != id || event.InterviewID != sampleInterview {
		return errors.New("the event is not the one that was sent")
	}
	return nil
}

// consume reads the whole stream as any other service would, over TCP.
func consume(ctx context.Context, i *ingress) ([]jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	nc, err := nats.Connect(i.broker.URL())
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(ctx, i.settings.Stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{i.settings.Subject + ".>"},
	})
	if err != nil {
		return nil, err
	}
	var received []jetstream.Msg
	for {
		msg, err := consumer.Next(jetstream.FetchContext(ctx))
		if err != nil {
			return nil, err
		}
		received = append(received, msg)
		metadata, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		if metadata.NumPending == 0 {
			return received, nil
		}
	}
}

// freeAddress returns the usual address if it is free, else one with a port
// that the system chooses.
func freeAddress(usual string) string {
	listener, err := net.Listen("tcp", usual)
	if err != nil {
		return "127.0.0.1:0"
	}
	listener.Close()
	return usual
}

// programName is how this program was called, for a line to paste.
func programName() string {
	if strings.Contains(os.Args[0], "go-build") { // by go run
		return "go run ./cmd/versive-ingress"
	}
	return os.Args[0]
}
