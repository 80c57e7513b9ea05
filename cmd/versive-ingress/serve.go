package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/server"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
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
		Example: `  INGRESS_SECRETS=whsec_… versive-ingress serve
  INGRESS_SECRETS_FILE=secrets INGRESS_DATA_DIR=/var/lib/versive-ingress versive-ingress serve`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.Load()
			if err != nil {
				return err
			}
			log := server.OpenLog(os.Stderr, func(w io.Writer) *slog.Logger { return newLogger(w, settings) })
			cfg := serverConfig(settings, log.Logger)
			cfg.LogDropped = log.Dropped
			err = server.Run(cmd.Context(), cfg)
			log.Close()
			return err
		},
	}
}

func serverConfig(s config.Settings, log *slog.Logger) server.Config {
	return server.Config{Settings: s, Version: version, Commit: revision(), Logger: log}
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

// newLogger returns a logger on w, which writes to the standard error.
func newLogger(w io.Writer, s config.Settings) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	if s.LogFormat == "text" || s.LogFormat == "" && terminal.IsTerminal(os.Stderr) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
