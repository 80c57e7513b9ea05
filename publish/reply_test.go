package publish_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded/embeddedtest"
)

// startConfigured runs a plain NATS server with a configuration file until the test
// ends. configure replaces the file and makes the server reload it.
func startConfigured(t *testing.T, text string) (s *server.Server, configure func(text string)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	options, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	options.NoSigs, options.NoLog = true, true
	if s, err = server.NewServer(options); err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(embeddedtest.Timeout) {
		t.Fatal("the server did not start")
	}
	return s, func(text string) {
		write(text)
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
	}
}

// A server removes the reply subscription when the user loses the permission for it,
// and does not restore it when the permission is granted again. The publisher notices
// that and reconnects, even to the only server.
func TestReplySubscriptionIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	allow := func(subscribe string) string {
		return fmt.Sprintf(`
			listen: "127.0.0.1:-1"
			jetstream { store_dir: %q, sync_interval: always }
			authorization { users: [
				{ user: ingress, password: secret, permissions: { publish: ">", subscribe: %q } }
			] }`, dir, subscribe)
	}
	s, configure := startConfigured(t, allow("_INBOX.>"))
	cfg := config(s.ClientURL())
	cfg.URL = fmt.Sprintf("nats://ingress:secret@%s", s.Addr())
	cfg.Mode, cfg.Timeout = publish.ModeBatch, 500*time.Millisecond
	p := openPublisher(t, cfg)
	embeddedtest.Await(t, "published", func() bool {
		_, err := p.Publish(t.Context(), event(t, "msg_before"))
		return err == nil
	})

	configure(allow("nothing"))
	_, err := p.Publish(t.Context(), event(t, "msg_denied"))
	wantReason(t, err, "no_answer")
	embeddedtest.Await(t, "not ready, because the broker does not answer", func() bool {
		_, published := errors.AsType[*publish.Error](p.Ready())
		return p.Ready() != nil && !published
	})

	configure(allow("_INBOX.>"))
	embeddedtest.Await(t, "published again", func() bool {
		_, err := p.Publish(t.Context(), event(t, "msg_after"))
		return err == nil
	})
	embeddedtest.Await(t, "ready", func() bool { return p.Ready() == nil })
}
