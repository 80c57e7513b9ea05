package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// A balancer passes requests to those ingresses that were ready when it last
// asked, in turn. It never passes one on twice.
type balancer struct {
	backends []*backend
	next     atomic.Uint64
	nowhere  atomic.Uint64 // requests that came when no ingress was ready
}

type backend struct {
	settings config.Settings
	proxy    *httputil.ReverseProxy
	ready    atomic.Bool
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first := b.next.Add(1)
	for i := range uint64(len(b.backends)) {
		to := b.backends[(first+i)%uint64(len(b.backends))]
		if to.ready.Load() {
			to.proxy.ServeHTTP(w, r)
			return
		}
	}
	b.nowhere.Add(1)
	w.WriteHeader(http.StatusBadGateway)
}

// balance serves a balancer on a port of its own and asks each ingress every
// so often whether it is ready.
func balance(t *testing.T, every time.Duration, ingresses ...config.Settings) (*balancer, string) {
	t.Helper()
	b := &balancer{}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	for _, s := range ingresses {
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.Listen})
		proxy.Transport = transport
		b.backends = append(b.backends, &backend{settings: s, proxy: proxy})
	}
	server := httptest.NewServer(b)
	stopped := make(chan struct{})
	var polls sync.WaitGroup
	for _, to := range b.backends { // each by itself: one that starts may answer slowly
		polls.Go(func() {
			for {
				to.ready.Store(readyz(to.settings) == http.StatusOK)
				select {
				case <-stopped:
					return
				case <-time.After(every):
				}
			}
		})
	}
	t.Cleanup(func() {
		close(stopped)
		polls.Wait()
		server.Close()
		transport.CloseIdleConnections()
	})
	return b, server.Listener.Addr().String()
}

// Ingresses are restarted in turn under load, each when the others are ready: two on one
// broker, and three that are a cluster. They refuse nothing, and what they accept is stored
// once.
func TestUpgradeInTurn(t *testing.T) {
	t.Parallel()
	t.Run("two on one broker", func(t *testing.T) {
		t.Parallel()
		broker := embeddedtest.StartBroker(t, embedded.Config{Listen: embeddedtest.FreeAddress(t)})
		pair := []config.Settings{newSettings(t), newSettings(t)}
		pair[1].Secrets = pair[0].Secrets
		for i := range pair {
			pair[i].NATSURL, pair[i].NATSListen = broker.URL(), ""
			pair[i].PublishMode = string(publish.ModeBatch)
		}
		upgradeInTurn(t, pair, func() jetstream.JetStream { return embeddedtest.Connect(t, broker.URL()) })
	})
	t.Run("a site of three", func(t *testing.T) {
		t.Parallel()
		site, u := newSite(t)
		urls := make([]string, len(site))
		for i, s := range site {
			urls[i] = broker.URL(s)
		}
		upgradeInTurn(t, site, func() jetstream.JetStream { _, js := u.connect(t, strings.Join(urls, ","), u.operator); return js })
	})
}

func upgradeInTurn(t *testing.T, ingresses []config.Settings, connect func() jetstream.JetStream) {
	t.Helper()
	stop := make([]func(), len(ingresses))
	start := func(i int) {
		cmd, log := launch(t, "versive-ingress", ingresses[i])
		stop[i] = func() {
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the process ended with %v\n%s", err, log)
			}
		}
	}
	for i := range ingresses {
		ingresses[i].DrainDelay = 3 * time.Second // long, for a machine that is busy with other tests
		start(i)
	}
	b, address := balance(t, 20*time.Millisecond, ingresses...)
	awaitAll := func() {
		t.Helper()
		embeddedtest.Await(t, "the balancer knows all", func() bool {
			return !slices.ContainsFunc(b.backends, func(b *backend) bool { return !b.ready.Load() })
		})
	}
	awaitAll()
	through := ingresses[0]
	through.Listen = address
	l := startLoad(t, through, 4, 20*time.Millisecond)
	for i := range ingresses {
		l.awaitAccepted(t, 50)
		stop[i]()
		l.awaitAccepted(t, 50) // by the others
		start(i)
		awaitAll()
	}
	l.awaitAccepted(t, 50)
	l.stop()
	l.check(t)
	accepted, refused, lost := l.counts()
	t.Logf("%d requests were accepted, %d refused, %d had no answer (%d came when none was ready)", accepted, refused, lost, b.nowhere.Load())
	if refused+lost > 0 {
		t.Errorf("want none refused")
	}
	requireStored(t, connect(), ingresses[0].Stream, l.accepted)
}
