package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

func healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Ask a running ingress whether it is ready",
		Long: `Ask the ingress at INGRESS_ADMIN_LISTEN whether it is ready (/readyz), for the
health check of a container. It gives up after 5 seconds.

EXIT STATUS
  0  ready: events can be stored
  1  not ready, as the error describes, or no ingress answers`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.Read()
			if err != nil {
				return err
			}
			return health(cmd.Context(), settings)
		},
	}
}

func health(ctx context.Context, s config.Settings) error {
	address, err := s.AdminURL()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no ingress answers: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return errors.New("not ready: " + strings.TrimSpace(string(why)))
	}
	return nil
}
