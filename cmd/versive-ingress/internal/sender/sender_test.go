package sender_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
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
