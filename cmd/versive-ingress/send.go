package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/cmd/versive-ingress/internal/config"
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
			s := sender{url: defaultURL}
			if len(args) > 0 {
				s.url = args[0]
			}
			if err := s.signWith(secret); err != nil {
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
				eventID := cmp.Or(id, newEventID())
				for posts := 0; posts == 0 || duplicate && posts == 1; posts++ {
					answer, err := s.post(cmd.Context(), eventID, at(), body)
					if err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), answer, eventID)
					if !answer.accepted() {
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

func newEventID() string { return "msg_" + rand.Text() }

// A sender posts webhooks as the vendor does.
type sender struct {
	url     string
	webhook *svix.Webhook
	client  *http.Client // nil is client
}

// signWith sets the secret; "" is the first of INGRESS_SECRETS.
func (s *sender) signWith(secret string) error {
	first, _, _ := strings.Cut(os.Getenv("INGRESS_SECRETS"), ",")
	secret = cmp.Or(secret, strings.TrimSpace(first))
	if secret == "" {
		return errors.New("no signing secret: give --secret, or set INGRESS_SECRETS")
	}
	var err error
	if s.webhook, err = svix.NewWebhook(secret); err != nil {
		return errors.New(`the signing secret is not "whsec_" and base64`)
	}
	return nil
}

// answer is what the ingress said of one webhook.
type answer struct {
	status   int
	Outcome  string `json:"outcome"`
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
	Reason   string `json:"reason"`
	Detail   string `json:"detail"` // of a refusal too
}

func (a answer) accepted() bool { return a.status/100 == 2 }

func (a answer) String() string {
	words := []string{strconv.Itoa(a.status)}
	for _, word := range []string{a.Outcome, a.Reason, a.Detail} {
		if word != "" {
			words = append(words, word)
		}
	}
	if a.Stream != "" {
		words = append(words, a.Stream, strconv.FormatUint(a.Sequence, 10))
	}
	return strings.Join(words, " ")
}

// client does not follow redirects: to the vendor a 3xx is a failure.
var client = &http.Client{
	Timeout:       config.SenderTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// request returns the webhook, signed at the given time.
func (s *sender) request(ctx context.Context, id string, at time.Time, body []byte) (*http.Request, error) {
	signature, err := s.webhook.Sign(id, at, body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Svix-Id", id)
	request.Header.Set("Svix-Timestamp", strconv.FormatInt(at.Unix(), 10))
	request.Header.Set("Svix-Signature", signature)
	return request, nil
}

// post signs body at the given time and posts it.
func (s *sender) post(ctx context.Context, id string, at time.Time, body []byte) (answer, error) {
	request, err := s.request(ctx, id, at, body)
	if err != nil {
		return answer{}, err
	}
	response, err := cmp.Or(s.client, client).Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	a := answer{status: response.StatusCode}
	if err := json.Unmarshal(text, &a); err != nil {
		a.Detail = http.StatusText(a.status) // not an ingress
	}
	return a, nil
}
