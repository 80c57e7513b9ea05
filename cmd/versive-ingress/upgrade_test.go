package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			for _, to := range b.backends {
				to.ready.Store(readyz(to.settings) == http.StatusOK)
			}
			select {
			case <-stopped:
				return
			case <-time.After(every):
			}
		}
	}()
	t.Cleanup(func() {
		close(stopped)
		<-done
		server.Close()
		transport.CloseIdleConnections()
	})
	return b, server.Listener.Addr().String()
}

// Two ingresses on one stream are replaced in turn under load. The pair
// refuses nothing, and what it accepts is stored once.
func TestUpgradeInTurn(t *testing.T) {
	t.Parallel()
	broker := embeddedtest.StartBroker(t, embedded.Config{Listen: embeddedtest.FreeAddress(t)})
	secret := config.NewSecret()
	pair := make([]config.Settings, 2)
	for i := range pair {
		pair[i] = newSettings(t)
		pair[i].Secrets = []string{secret}
		pair[i].NATSURL, pair[i].NATSListen = broker.URL(), ""
		pair[i].PublishMode = string(publish.ModeBatch)
		pair[i].DrainDelay = 3 * time.Second // long, for a machine that is busy with other tests
	}
	start := func(s config.Settings) func() {
		cmd, log := launch(t, "versive-ingress", s)
		awaitReady(t, s)
		return func() {
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the process ended with %v\n%s", err, log)
			}
		}
	}
	stop := []func(){start(pair[0]), start(pair[1])}

	b, address := balance(t, 20*time.Millisecond, pair...)
	bothReady := func() bool { return b.backends[0].ready.Load() && b.backends[1].ready.Load() }
	embeddedtest.Await(t, "the balancer knows both", bothReady)
	through := pair[0]
	through.Listen = address
	l := startLoad(t, through, 4)
	for i, s := range pair {
		l.awaitAccepted(t, 50)
		stop[i]()
		l.awaitAccepted(t, 50) // by the other one
		start(s)
		embeddedtest.Await(t, "the balancer knows both", bothReady)
	}
	l.awaitAccepted(t, 50)
	l.stop()
	l.check(t)
	if _, refused, lost := l.counts(); refused+lost > 0 {
		t.Errorf("%d requests were refused and %d had no answer (%d came when neither was ready)", refused, lost, b.nowhere.Load())
	}
	requireStored(t, embeddedtest.Connect(t, broker.URL()), pair[0].Stream, l.accepted)
}
