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

const defaultURL = "http://127.0.0.1:8080/webhooks/versive"

func sendCommand() *cobra.Command {
	var (
		secret, file, id, timestamp string
		count                       int
		duplicate                   bool
	)
	cmd := &cobra.Command{
		Use:   "send [URL]",
		Short: "Sign webhooks and post them",
		Long: `Sign webhooks as the vendor does and post them to URL
(` + defaultURL + ` if none is given).

Prints one line for each answer. Exits 0 only if all were accepted (2xx).`,
		Example: `  versive-ingress send --secret whsec_…                  the documented sample
  versive-ingress send --secret whsec_… --count 100       100 generated interviews
  versive-ingress send --secret whsec_… --file body.json --id msg_1 --duplicate`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := sender.Sender{URL: defaultURL}
			if len(args) > 0 {
				s.URL = args[0]
			}
			if err := s.SignWith(secret); err != nil {
				return err
			}
			at, err := parseTimestamp(timestamp)
			if err != nil {
				return err
			}
			body := sample
			if file != "" {
				if body, err = os.ReadFile(file); err != nil {
					return err
				}
			}
			if count < 1 {
				return errors.New("--count: want at least 1")
			}
			if count > 1 && (id != "" || file != "") {
				return errors.New("--count generates events of its own; leave out --id and --file")
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
					if !answer.Accepted() {
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
	flags.StringVar(&secret, "secret", "", "signing secret (default: the first of INGRESS_SECRETS)")
	flags.StringVar(&file, "file", "", "send this file instead of the sample")
	flags.IntVar(&count, "count", 1, "send this many generated interviews")
	flags.StringVar(&id, "id", "", "svix-id (default: a new one for each event)")
	flags.BoolVar(&duplicate, "duplicate", false, "send each event twice")
	flags.StringVar(&timestamp, "timestamp", "", "time of signing, RFC 3339 or Unix seconds (default: now)")
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
