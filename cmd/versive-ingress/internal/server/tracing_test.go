package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
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

func TestTracingDisabled(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "console")
	t.Setenv("OTEL_SDK_DISABLED", "true")
	sys := run(t, newSettings(t))
	if sys.tracing != nil {
		t.Error("the SDK runs although it is disabled")
	}
}

// Variables that OpenTelemetry cannot use keep no webhook out. Each is in the log, once
// and without its value if that may be a secret.
func TestOddTelemetry(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	type env map[string]string
	for name, c := range map[string]struct {
		env    env
		traced bool
		want   string // in the log
	}{
		"exporter":        {env{"OTEL_TRACES_EXPORTER": "carrier-pigeon"}, false, `"OTEL_TRACES_EXPORTER":"carrier-pigeon"`},
		"exporters":       {env{"OTEL_TRACES_EXPORTER": "otlp,console"}, false, `"OTEL_TRACES_EXPORTER":"otlp,console"`},
		"protocol":        {env{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, false, "invalid OTLP protocol"},
		"attributes":      {env{"OTEL_RESOURCE_ATTRIBUTES": "team=edge,"}, true, "OTEL_RESOURCE_ATTRIBUTES"},
		"endpoint":        {env{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:hunter2@host:port"}, true, "parse url"},
		"scheme":          {env{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://user:hunter2@127.0.0.1:1"}, true, `"msg":"ready"`},
		"headers":         {env{"OTEL_EXPORTER_OTLP_HEADERS": "hunter2"}, true, "parse headers"},
		"header value":    {env{"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=%zzhunter2"}, true, "escape header value"},
		"timeout":         {env{"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, true, "parse duration"},
		"certificate":     {env{"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"}, true, "OTEL_EXPORTER_OTLP_CERTIFICATE"},
		"no certificate":  {env{"OTEL_EXPORTER_OTLP_CERTIFICATE": "tracing_test.go"}, true, "create tls cert pool"},
		"pipe":            {env{"OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": pipe, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE": pipe}, true, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY"},
		"queue":           {env{"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, true, "OTEL_BSP_MAX_QUEUE_SIZE"},
		"queue, no limit": {env{"OTEL_BSP_MAX_QUEUE_SIZE": "99999999999"}, true, "OTEL_BSP_MAX_QUEUE_SIZE"},
		"batch":           {env{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "-1"}, true, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"},
		"delay":           {env{"OTEL_BSP_SCHEDULE_DELAY": "5s"}, true, "OTEL_BSP_SCHEDULE_DELAY"},
		"no delay":        {env{"OTEL_BSP_SCHEDULE_DELAY": "0"}, true, "OTEL_BSP_SCHEDULE_DELAY"},
		"sampler":         {env{"OTEL_TRACES_SAMPLER": "some"}, true, "unsupported sampler: some"},
		"sampler's value": {env{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "few"}, true, "parsing sampler argument"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			for variable, value := range c.env {
				t.Setenv(variable, value)
			}
			sys := run(t, newSettings(t))
			if status, text := sys.post("msg_1", sample); status != http.StatusOK {
				t.Errorf("a webhook is answered %d %s", status, text)
			}
			if traced := sys.tracing != nil; traced != c.traced {
				t.Errorf("traced: %t", traced)
			}
			sys.Stop() // exports the spans
			log := sys.log.String()
			if n := strings.Count(log, c.want); n != 1 {
				t.Errorf("the log has %q %d times", c.want, n)
			}
			if strings.Contains(log, "hunter2") || t.Failed() {
				t.Errorf("the log is\n%s", log)
			}
		})
	}
}
