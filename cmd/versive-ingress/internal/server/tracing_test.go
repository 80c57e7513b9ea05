package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A collector gets the spans by OTLP, the last ones at the end.
func TestTracesToCollector(t *testing.T) {
	received := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		received <- r.URL.Path + " " + string(body)
	}))
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_SERVICE_NAME", "edge")
	sys := run(t, newSettings(t))
	sys.post("msg_1", sample)
	sys.Stop()
	select {
	case got := <-received:
		for _, part := range []string{"/v1/traces ", "edge", "POST /webhooks/versive", "publish", "msg_1"} {
			if !strings.Contains(got, part) {
				t.Errorf("the collector got no %q", part)
			}
		}
	default:
		t.Error("the collector got nothing")
	}
}

func TestTracingRefused(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
	if _, err := tryRun(t, newSettings(t)); err == nil || !strings.Contains(err.Error(), `OTEL_TRACES_EXPORTER="carrier-pigeon"`) {
		t.Errorf("got %v", err)
	}
	t.Setenv("OTEL_SDK_DISABLED", "true")
	sys := run(t, newSettings(t))
	if sys.tracing != nil {
		t.Error("the SDK runs although it is disabled")
	}
}
