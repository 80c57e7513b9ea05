package sender_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/ingest"
)

// A 2xx answer of something else than an ingress can be told from that of an ingress.
func TestPostKnowsIngresses(t *testing.T) {
	t.Parallel()
	for body, foreign := range map[string]bool{
		"<html>Welcome</html>": true,
		"{}":                   true,
		`{"outcome":"stored","stream":"VERSIVE","sequence":1}`: false,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		t.Cleanup(server.Close)
		s, err := sender.New(server.URL, config.NewSecret())
		if err != nil {
			t.Fatal(err)
		}
		s.HTTP = server.Client()
		if a, err := s.Post(t.Context(), "msg_1", time.Now(), nil); err != nil || !a.Accepted() || a.Foreign != foreign {
			t.Errorf("%s: got %+v, %v; want Foreign %v", body, a, err, foreign)
		}
	}
}

// A webhook is signed with the first secret of its organization.
func TestSignAs(t *testing.T) {
	secrets := []string{"acme:" + config.NewSecret(), config.NewSecret(), "globex:" + config.NewSecret(), "acme:" + config.NewSecret(), config.NewSecret()}
	t.Setenv("INGRESS_SECRETS", strings.Join(secrets, ","))
	at := time.Now()
	signer := func(s *sender.Sender) int {
		request, err := s.Request(t.Context(), "msg_1", at, nil)
		if err != nil {
			t.Fatal(err)
		}
		return slices.IndexFunc(secrets, func(secret string) bool {
			_, unnamed := ingest.SplitSecret(secret)
			webhook, err := svix.NewWebhook(unnamed)
			return err == nil && webhook.Verify(nil, request.Header) == nil
		})
	}
	s, err := sender.New("http://127.0.0.1/", "")
	if err != nil {
		t.Fatal(err)
	}
	if got := signer(s); got != 0 {
		t.Errorf("signed with secret %d, want the first", got)
	}
	for organization, want := range map[string]int{"acme": 0, "": 1, "globex": 2} {
		if err := s.SignAs(organization); err != nil || signer(s) != want {
			t.Errorf("%q: %v, signed with secret %d, want %d", organization, err, signer(s), want)
		}
	}
	if err := s.SignAs("initech"); err == nil || !strings.Contains(err.Error(), "no secret of organization initech") {
		t.Errorf("got %v", err)
	}
	given, err := sender.New("http://127.0.0.1/", secrets[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := given.SignAs("acme"); err != nil || signer(given) != 2 {
		t.Errorf("%v, signed with secret %d, want the one that was given", err, signer(given))
	}
	t.Setenv("INGRESS_SECRETS", secrets[0])
	if s, err = sender.New("http://127.0.0.1/", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.SignAs(""); err == nil || !strings.Contains(err.Error(), "no secret without an organization") {
		t.Errorf("got %v", err)
	}
	if err := s.SignWith("acme:"); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("a name alone: got %v", err)
	}
}
