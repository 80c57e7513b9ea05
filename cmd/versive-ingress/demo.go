package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/server"
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
		Example: `  versive-ingress demo
  versive-ingress demo --once`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), once)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the sample was consumed")
	return cmd
}

func demo(ctx context.Context, out, logs io.Writer, once bool) error {
	os.Unsetenv("OTEL_TRACES_EXPORTER")
	dir, err := os.MkdirTemp("", "versive-ingress-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	secret := config.NewSecret()
	settings := config.Defaults() // not those of serve: the demo is the same everywhere
	settings.Secrets = []string{secret}
	settings.Listen = freeAddress("127.0.0.1:8080")
	settings.AdminListen = freeAddress("127.0.0.1:9090")
	settings.NATSListen = freeAddress("127.0.0.1:4222")
	settings.DataDir = dir
	settings.LogLevel = slog.LevelWarn

	ingress, err := server.Start(ctx, serverConfig(settings, newLogger(logs, settings)))
	if err != nil {
		return err
	}
	defer ingress.Stop()
	url := ingress.WebhookURL()
	settings.NATSURL = ingress.BrokerURL() // for the consumer
	fmt.Fprintf(out, "The ingress is running on an embedded broker, for this machine only.\n\n")
	fmt.Fprintf(out, "  webhooks     %s\n  subscribers  %s\n\n", url, settings.NATSURL)
	if err := showOnce(ctx, out, url, secret, settings); err != nil || once {
		return err
	}
	fmt.Fprintf(out, "Post more:\n  %s send --secret %s %s\n\n", programName(), secret, url)
	fmt.Fprintf(out, "Read them with the nats CLI:\n  nats --server %s subscribe --stream %s --all '%s.>'\n\n", settings.NATSURL, settings.Stream, settings.Subject)
	fmt.Fprintln(out, "Serving until Ctrl-C.")
	return ingress.Wait(ctx)
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
