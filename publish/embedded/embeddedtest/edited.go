package embeddedtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
)

// StartMappedBroker starts a broker that replies to the requests with a subject of the
// JetStream API what answer returns, as JSON, or nothing if that is nil. Calls of answer are
// not concurrent.
func StartMappedBroker(t testing.TB, subject string, answer func(jetstream.JetStream) any) *embedded.Broker {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
		listen: "127.0.0.1:-1"
		no_auth_user: u
		accounts {
			A {
				jetstream: enabled
				users: [{user: u, password: p}]
				mappings: {%q: "mapped"}
			}
		}`, subject), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := StartBroker(t, embedded.Config{ConfigFile: file})
	js := Connect(t, broker.URL())
	if _, err := js.Conn().Subscribe("mapped", func(m *nats.Msg) {
		v := answer(js)
		if v == nil {
			return
		}
		text, err := json.Marshal(v)
		if err == nil {
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

// StartEditedBroker starts a broker that answers requests for the state of the stream
// VERSIVE with what edit makes of it, such as the state that a server of a cluster reports
// when it lags. Calls of edit are not concurrent.
func StartEditedBroker(t testing.TB, edit func(*jetstream.StreamInfo)) *embedded.Broker {
	t.Helper()
	return StartMappedBroker(t, "$JS.API.STREAM.INFO.VERSIVE", func(js jetstream.JetStream) any {
		answer := struct {
			*jetstream.StreamInfo
			Error *jetstream.APIError `json:"error,omitempty"`
		}{nil, &jetstream.APIError{Code: 404, ErrorCode: jetstream.JSErrCodeStreamNotFound}}
		list := js.ListStreams(t.Context(), jetstream.WithStreamListSubject("versive.>"))
		for info := range list.Info() {
			edit(info)
			answer.StreamInfo, answer.Error = info, nil
		}
		if list.Err() != nil {
			return nil
		}
		return answer
	})
}
