// Package sender signs webhooks and posts them as the vendor does.
package sender

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/ingest"
)

// NewID returns a random svix-id.
func NewID() string { return "msg_" + rand.Text() }

// A Sender posts webhooks to URL. It needs a secret, by New or SignWith.
type Sender struct {
	URL     string
	HTTP    *http.Client // nil is Client
	webhook *svix.Webhook
	secrets []string // of the settings; nil if New was given another
}

// New returns a sender to url, or if that is "" to the webhook listener of the settings,
// that signs with secret, or if that is "" with the first secret of the settings.
func New(url, secret string) (_ *Sender, err error) {
	var settings config.Settings
	if url == "" || secret == "" {
		if settings, err = config.Read(); err != nil {
			return nil, err
		}
	}
	s := &Sender{URL: cmp.Or(url, settings.WebhookURL())}
	if secret == "" {
		if s.secrets, err = settings.SigningSecrets(); err != nil {
			return nil, fmt.Errorf("no --secret, and %w", err)
		}
		secret = s.secrets[0]
	}
	return s, s.SignWith(config.NormalizeSecret(secret))
}

// SignWith sets the signing secret. The name of its organization, if it has one, has no
// effect.
func (s *Sender) SignWith(secret string) (err error) {
	_, unnamed := ingest.SplitSecret(secret)
	if s.webhook, err = svix.NewWebhook(unnamed); err != nil || unnamed == "" {
		return fmt.Errorf("the signing secret %w", ingest.CheckSecret(secret))
	}
	return nil
}

// SignAs sets the first secret of the settings that has the organization, so that an
// ingress with these settings names the same; "" is a secret that has none. If New was
// given a secret, SignAs has no effect.
func (s *Sender) SignAs(organization string) error {
	for _, secret := range s.secrets {
		if name, _ := ingest.SplitSecret(secret); name == organization {
			return s.SignWith(secret)
		}
	}
	switch {
	case s.secrets == nil:
		return nil
	case organization == "":
		return errors.New("the settings have no secret without an organization; --secret sets one")
	}
	return fmt.Errorf("the settings have no secret of organization %s; --secret sets one", organization)
}

// An Answer is how the ingress answered one webhook.
type Answer struct {
	Status     int           `json:"-"`
	RetryAfter time.Duration `json:"-"` // how long to wait; 0 if the answer does not name a time
	Foreign    bool          `json:"-"` // it is not that of an ingress, but of a proxy or another server

	Outcome  string `json:"outcome"`
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
	Reason   string `json:"reason"`
	Detail   string `json:"detail"` // also set if the webhook was not accepted
}

// Accepted reports whether the status is 2xx.
func (a Answer) Accepted() bool { return a.Status/100 == 2 }

// String returns the answer in one line, as send prints it.
func (a Answer) String() string {
	words := []string{strconv.Itoa(a.Status)}
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

// Client is the HTTP client of senders. It does not follow redirects: to the vendor a 3xx is a failure.
var Client = &http.Client{
	Timeout:       config.SenderTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Request returns the webhook, signed at the given time.
func (s *Sender) Request(ctx context.Context, id string, at time.Time, body []byte) (*http.Request, error) {
	signature, err := s.webhook.Sign(id, at, body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Svix-Id", id)
	request.Header.Set("Svix-Timestamp", strconv.FormatInt(at.Unix(), 10))
	request.Header.Set("Svix-Signature", signature)
	if len(body) > 1<<20 { // otherwise a rejection by size may be lost while the body is being sent
		request.Header.Set("Expect", "100-continue")
	}
	return request, nil
}

// Post signs body at the given time and posts it. If it returns an error after the
// status was received, the Answer has the status.
func (s *Sender) Post(ctx context.Context, id string, at time.Time, body []byte) (a Answer, err error) {
	request, err := s.Request(ctx, id, at, body)
	if err != nil {
		return a, err
	}
	response, err := cmp.Or(s.HTTP, Client).Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	a.Status = response.StatusCode
	a.RetryAfter = retryAfter(response.Header.Get("Retry-After"), time.Now())
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return a, fmt.Errorf("reading the answer: %w", err)
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Outcome == "" && a.Detail == "" {
		a.Foreign, a.Detail = true, http.StatusText(a.Status)+" (not the answer of an ingress)"
	}
	return a, nil
}

// retryAfter returns how long a Retry-After header asks to wait, or 0.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
