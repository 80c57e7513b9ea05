package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/doctor"
)

func healthCommand() *cobra.Command {
	live := false
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a running ingress whether it is ready",
		Long: `Ask the ingress at INGRESS_ADMIN_LISTEN whether it is ready (/readyz) or,
with --live, whether it runs (/livez). The command gives up after 5 seconds.

For a check whose failure replaces the ingress, such as the health check of a
container, use --live: another ingress would wait for the broker as well.

EXIT STATUS
  0  ready: events can be stored; with --live: the ingress runs
  1  not ready, as the error describes, or no ingress answers`,
		Example: `  versive-ingress health && echo ready`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.Read()
			if err != nil {
				return err
			}
			path := "/readyz"
			if live {
				path = "/livez"
			}
			return health(cmd.Context(), settings, path)
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "ask whether the ingress runs (/livez), even if it cannot store events")
	return cmd
}

func health(ctx context.Context, s config.Settings, path string) error {
	address, err := s.AdminURL()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, text, err := doctor.Get(ctx, address+path)
	if err != nil {
		return fmt.Errorf("no ingress answers at %s: %w", address, err)
	}
	switch {
	case !doctor.IsIngress(response, text):
		return fmt.Errorf("the program at %s is not versive-ingress, or this is not its admin listener", address)
	case response.StatusCode != http.StatusOK:
		return errors.New("not ready: " + strings.TrimSpace(text))
	}
	return nil
}
