package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/sender"
)

// sample is the body of the vendor's documentation.
//
//go:embed sample.json
var sample []byte

// sampleInterview is the interview's id in it.
const sampleInterview = "3fa85f64-5717-4562-b3fc-2c963f66afa6"

func sendCommand() *cobra.Command {
	var (
		secret, organization, file, id, timestamp string
		count                                     uint
		duplicate                                 bool
	)
	cmd := &cobra.Command{
		Use:   "send [URL]",
		Short: "Sign webhooks and post them",
		Long: `Sign webhooks as Versive does and post them to URL (default: the ingress of
the settings on this machine). Without flags, post the sample of Versive's
documentation.

One line is printed for each answer: its status; the outcome with stream and
sequence, or why the webhook was not accepted; and the svix-id.

EXIT STATUS
  0  every webhook was accepted (answered 2xx by an ingress)
  1  one was not accepted, or could not be posted`,
		Example: `  versive-ingress send --secret whsec_…
  versive-ingress send --secret whsec_… --count 100 https://host/webhooks/versive
  versive-ingress send --secret whsec_… --file body.json --id msg_1 --duplicate`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := sender.New(append(args, "")[0], secret)
			if err == nil && organization != "" {
				err = s.SignAs(organization)
			}
			at, errAt := parseTimestamp(timestamp)
			if err = cmp.Or(err, errAt); err != nil {
				return err
			}
			body := sample
			if file != "" {
				if body, err = os.ReadFile(file); err != nil {
					return err
				}
			}
			if count > 1 && (id != "" || file != "") {
				return errors.New("--count above 1 generates interviews: it excludes --id and --file")
			}
			refused := 0
			for range count {
				if count > 1 {
					body = bytes.ReplaceAll(sample, []byte(sampleInterview), []byte(rand.Text()))
				}
				eventID := cmp.Or(id, sender.NewID())
				for posts := 0; posts == 0 || duplicate && posts == 1; posts++ {
					answer, err := s.Post(cmd.Context(), eventID, at(), body)
					if err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), answer, eventID)
					if !answer.Accepted() || answer.Foreign {
						refused++
					}
				}
			}
			if refused > 0 {
				return fmt.Errorf("not accepted: %d", refused)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&secret, "secret", "", "signing secret (default: the first of INGRESS_SECRETS and INGRESS_SECRETS_FILE)")
	flags.StringVar(&organization, "organization", "", "sign with the first secret of INGRESS_SECRETS and INGRESS_SECRETS_FILE that has this organization")
	flags.StringVar(&file, "file", "", "post the body in this file instead of the sample")
	flags.UintVar(&count, "count", 1, "number of webhooks to post; more than one are generated interviews")
	flags.StringVar(&id, "id", "", "svix-id of the webhook (default: a random one)")
	flags.BoolVar(&duplicate, "duplicate", false, "post each webhook twice")
	flags.StringVar(&timestamp, "timestamp", "", "time at which the webhook is signed, RFC 3339 or Unix seconds (default: now)")
	completeFiles(cmd, "file")
	cmd.MarkFlagsMutuallyExclusive("secret", "organization")
	return cmd
}

// parseTimestamp returns the clock to sign by.
func parseTimestamp(s string) (func() time.Time, error) {
	if s == "" {
		return time.Now, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if seconds, atoi := strconv.ParseInt(s, 10, 64); atoi == nil {
		t, err = time.Unix(seconds, 0), nil
	}
	if err != nil {
		return nil, fmt.Errorf("--timestamp %q: want RFC 3339 or Unix seconds", s)
	}
	return func() time.Time { return t }, nil
}
