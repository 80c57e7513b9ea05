package embeddedtest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
)

// StartEditedBroker starts a broker that answers requests for the state of the stream
// VERSIVE with what edit makes of it, such as the state that a server of a cluster reports
// when it lags. Calls of edit are not concurrent.
func StartEditedBroker(t testing.TB, edit func(*jetstream.StreamInfo)) *embedded.Broker {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(`
		listen: "127.0.0.1:-1"
		no_auth_user: u
		accounts {
			A {
				jetstream: enabled
				users: [{user: u, password: p}]
				mappings: {"$JS.API.STREAM.INFO.VERSIVE": "edited"}
			}
		}`), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := StartBroker(t, embedded.Config{ConfigFile: file})
	js := Connect(t, broker.URL())
	if _, err := js.Conn().Subscribe("edited", func(m *nats.Msg) {
		answer := struct {
			*jetstream.StreamInfo
			Error *jetstream.APIError `json:"error,omitempty"`
		}{nil, &jetstream.APIError{Code: 404, ErrorCode: jetstream.JSErrCodeStreamNotFound}}
		list := js.ListStreams(t.Context(), jetstream.WithStreamListSubject("versive.>"))
		for info := range list.Info() {
			edit(info)
			answer.StreamInfo, answer.Error = info, nil
		}
		text, err := json.Marshal(answer)
		if err == nil && list.Err() == nil {
			err = m.Respond(text)
		}
		if err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	return broker
}
