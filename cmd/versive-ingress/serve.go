package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Receive webhooks and store them",
		Long: `Receive webhooks and store them until SIGTERM or SIGINT. A second signal ends
the process immediately.

Settings are environment variables, which docs/settings.md describes. Secrets,
certificates and credentials in files are reread when they change, and on
SIGHUP.

SETTINGS
` + settingsText() + `
EXIT STATUS
  0  ended by SIGTERM or SIGINT
  1  did not start, because a setting is wrong or the store or a stream cannot
     be used; or ended by an error, such as a listener that failed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.Load()
			if err != nil {
				return err
			}
			signal.Ignore(syscall.SIGHUP) // until there is somebody to read files again
			ctx, log := cmd.Context(), newLogger(settings, cmd.ErrOrStderr())
			ingress, err := start(ctx, settings, log)
			if ended := context.Cause(ctx); ended != nil && errors.Is(err, ended) {
				return nil // by a signal, while it waited for the broker
			}
			if err != nil {
				return err
			}
			signal.Notify(ingress.reloader.now, syscall.SIGHUP)
			go ingress.limitMemory(ctx)
			return ingress.wait(ctx)
		},
	}
	return cmd
}

// settingsText is the table of settings for a terminal.
func settingsText() string {
	var b strings.Builder
	for _, f := range config.Fields() {
		fmt.Fprintf(&b, "  %s", f.Name)
		if f.Default != "" {
			fmt.Fprintf(&b, " (%s)", f.Default)
		}
		fmt.Fprintf(&b, "\n      %s\n", f.Description)
	}
	return b.String()
}

func newLogger(s config.Settings, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	if s.LogFormat == "text" || s.LogFormat == "" && terminal.IsTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
