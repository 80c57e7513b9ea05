package main

import (
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/ingest"
	"versive-ingress/publish/embedded/embeddedtest"
)

var organizationEvents = flag.Int("organization.events", 300, "TestOrganizationsDrill sends at least so many events")

// The secrets of two organizations, of two secrets each, are rotated under load, by
// the file: no webhook is rejected, and each event has the organization that has sent
// it, in the stream and nowhere another.
func TestOrganizationsDrill(t *testing.T) {
	t.Parallel()
	organizations := [...]string{"acme", "globex"}
	var current, previous [2]atomic.Pointer[string] // secrets, by organization
	for i := range organizations {
		current[i].Store(new(config.NewSecret()))
		previous[i].Store(new(config.NewSecret()))
	}
	file := func(first int) (text string) {
		for i := range organizations {
			i = (i + first) % len(organizations)
			text += fmt.Sprintf("%[1]s:%[2]s\n%[1]s:%[3]s\n", organizations[i], *current[i].Load(), *previous[i].Load())
		}
		return text
	}
	s := newSettings(t)
	s.Secrets = nil
	s.SecretsFile = writeFile(t, "secrets", file(0))
	sys := run(t, s)

	var turn atomic.Int64
	var by sync.Map // organization, by id
	b := startBarrage(t, 8, "", func(string) error {
		i, id := turn.Add(1)%int64(len(organizations)), sender.NewID()
		by.Store(id, organizations[i])
		response, err := sender.Client.Do(signed(sys.url, *current[i].Load(), id, interview(id)))
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", organizations[i], response.Status)
		}
		return nil
	})
	rotations := 0
	for ; rotations < 2 || turn.Load() < int64(*organizationEvents); rotations++ {
		// The new secrets are configured first, in place of those before the current ones,
		// which a sender may still use.
		var next [2]string
		var text, series string
		for i := range organizations {
			i = (i + rotations) % len(organizations)
			next[i] = config.NewSecret()
			text += fmt.Sprintf("%[1]s:%[2]s\n%[1]s:%[3]s\n", organizations[i], next[i], *current[i].Load())
			series = fmt.Sprintf(`{fingerprint="%s",organization="%s",position="3"}`, ingest.Fingerprint(next[i]), organizations[i])
		}
		overwrite(t, s.SecretsFile+"~", text)
		rename(t, s.SecretsFile+"~", s.SecretsFile)
		embeddedtest.Await(t, "the new secrets are configured", func() bool {
			return strings.Contains(sys.metric("versive_ingress_secret_verified_total"), series)
		})
		for i := range organizations {
			current[i].Store(&next[i])
		}
		b.phase(t) // no request that is signed with an old secret is in flight at the next rotation
	}
	b.stop()
	b.requireCalm(t)

	stored := map[string]int{}
	for _, m := range readAll(t, embeddedtest.Connect(t, sys.BrokerURL()), "VERSIVE") {
		id, got := m.Headers().Get("ce-id"), m.Headers()["ce-organization"]
		want, _ := by.Load(id)
		if len(got) != 1 || got[0] != want {
			t.Fatalf("%s of %v has the organization %q", id, want, got)
		}
		stored[got[0]]++
	}
	if total := stored["acme"] + stored["globex"]; int64(total) != turn.Load() {
		t.Errorf("%d of %d events are stored", total, turn.Load())
	}
	t.Logf("%d rotations, events by organization: %v", rotations, stored)
}
