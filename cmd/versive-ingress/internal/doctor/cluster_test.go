package doctor_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/doctor"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// A cluster is good with three replicas, also while one of them catches up, and
// not without one of them.
func TestRunOnCluster(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	brokers := embeddedtest.StartCluster(t, t.TempDir())
	var urls []string
	for _, broker := range brokers {
		urls = append(urls, broker.URL())
	}
	s.NATSURL, s.NATSListen, s.Replicas = strings.Join(urls, ","), "", 3
	run(t, s)
	post(t, s)
	d := newDoctor(s)
	d.Probe = true
	awaitFindings(t, d)

	js := embeddedtest.Connect(t, s.NATSURL)
	dead := jetstream.StreamConfig{Name: "VERSIVE_DEAD", Subjects: []string{"versive-dead.>"}, Metadata: schema.KindDead.Metadata("VERSIVE")}
	if _, err := js.CreateStream(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	awaitFindings(t, newDoctor(s), "warning stream_replicas: nats stream edit VERSIVE_DEAD --replicas 3")
	dead.Replicas = 3 // the remedy
	if _, err := js.UpdateStream(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	awaitFindings(t, newDoctor(s))

	other := byHand(t, embeddedtest.Connect(t, s.NATSURL), s, "other", func(*jetstream.StreamConfig) {})
	other.Replicas = 1
	awaitFindings(t, newDoctor(other), "problem stream_differs: systemctl restart",
		"unknown sync_unknown: --monitor", "warning one_replica: export INGRESS_REPLICAS=3", "warning one_replica: export INGRESS_REPLICAS=3")

	away := brokers[0]
	js = embeddedtest.Connect(t, brokers[1].URL())
	away.Stop()
	embeddedtest.Await(t, "streams with a replica away", func() bool {
		if !hasLeader(t, js) { // it may have been the one
			return false
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		for _, kind := range []schema.Kind{schema.KindEvent, schema.KindQuarantine, schema.KindDead} {
			stream, err := js.Stream(ctx, kind.Stream(s.Stream))
			if err != nil || !slices.ContainsFunc(stream.CachedInfo().Cluster.Replicas, func(p *jetstream.PeerInfo) bool { return p.Offline }) {
				return false
			}
		}
		status, _ := readyz(t, s)
		return status == http.StatusOK
	})
	awaitFindings(t, newDoctor(s), "warning replica_behind: nats stream info VERSIVE  # after you have started that server", "warning replica_behind: nats stream info VERSIVE_QUARANTINE", "warning replica_behind: nats stream info VERSIVE_DEAD")
}

// awaitFindings is requireFindings for a cluster, whose streams may be without a leader
// for a time if the machine is busy. What an earlier probe has left then is removed.
func awaitFindings(t *testing.T, d *doctor.Config, want ...string) {
	t.Helper()
	js := embeddedtest.Connect(t, d.Settings.NATSURL)
	embeddedtest.Await(t, "the doctor finds what is wanted", func() bool {
		if stream, err := js.Stream(t.Context(), schema.KindQuarantine.Stream(d.Settings.Stream)); err == nil {
			_ = stream.Purge(t.Context()) // if that fails, so does the comparison
		}
		problem := compareFindings(t, d, want)
		t.Log(problem)
		return problem == ""
	})
}

func hasLeader(t *testing.T, js jetstream.JetStream) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := js.AccountInfo(ctx)
	return err == nil
}
