package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/server"
	"versive-ingress/publish/embedded"
)

func brokerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "broker",
		Short: "Run the embedded broker alone, to back up or restore its streams",
		Long: `Run the embedded broker with the settings of serve until SIGTERM or SIGINT, but
no ingress: no webhook is accepted, and no stream is created or changed. The
ingress must be stopped.

In that state the streams can be backed up completely, and restored, with the
nats CLI: to get back a backup, to change between one ingress and a site of
three, or to move the streams to another account. docs/operations.md describes
each under "Migrate the streams".

EXIT STATUS
  0  ended by SIGTERM or SIGINT
  1  did not start, because a setting is wrong or the store cannot be used`,
		Example: `  INGRESS_DATA_DIR=/var/lib/versive-ingress versive-ingress broker`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := config.Read()
			if err != nil {
				return err
			}
			if err := errors.Join(s.CheckBroker(), s.CheckFiles()); err != nil {
				return err
			}
			if s.NATSURL != "" {
				return errors.New("INGRESS_NATS_URL names an external broker; the command is for the embedded one")
			}
			log := newLogger(os.Stderr, s)
			return runBroker(cmd.Context(), server.BrokerConfig(s, log), log)
		},
	}
}

// runBroker runs a broker until ctx is done, and logs when it can be used.
func runBroker(ctx context.Context, cfg embedded.Config, log *slog.Logger) error {
	broker, err := embedded.Start(ctx, cfg)
	if ended := context.Cause(ctx); ended != nil && errors.Is(err, ended) {
		return nil
	}
	if err != nil {
		return err
	}
	defer broker.Stop()
	logged := ""
	for ready := false; ; {
		switch err := broker.Diagnose(); {
		case err == nil && !ready:
			ready = true
			log.Info("broker is ready; webhooks are not accepted", "subscribers", broker.URL())
		case err != nil && err.Error() != logged:
			ready, logged = false, err.Error()
			log.Warn("broker is not ready", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}
