package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A system is what is measured: a service that takes webhooks, if there is
// one, and the brokers behind it, if they are processes of their own.
type system struct {
	target  target
	dir     string
	service *process // nil: the bench itself publishes
	brokers []*process

	address string // of the service
	nats    string // URLs of a broker; "" where nothing is stored
	stream  string
	ready   time.Duration // from the service's start until it took webhooks
}

// programs are the binaries that systems consist of.
type programs struct {
	bench   string // this program
	ingress string
}

const (
	naiveStream  = "NAIVE"
	naiveSubject = "naive.events"
	bareStream   = "BARE"

	startTimeout = 2 * time.Minute // a stream of a million events has to be read
)

// start starts what t names, with its data in dir, and returns when it takes
// events that s signs. A dir with data is taken over.
func start(ctx context.Context, p programs, t target, dir string, s *source) (_ *system, err error) {
	sys := &system{target: t, dir: dir}
	defer func() {
		if err != nil {
			sys.stop()
		}
	}()
	if err := sys.startBrokers(ctx, p.bench); err != nil {
		return nil, err
	}
	if sys.address, err = freeAddress(); err != nil {
		return nil, err
	}
	s.host = sys.address
	started := time.Now()
	switch t.handler {
	case "plain":
		sys.service, err = startProcess(dir, "plain", nil, p.bench, "plain", sys.address)
	case "naive":
		sys.stream = naiveStream
		if err := sys.createStream(ctx, jetstream.StreamConfig{Subjects: []string{naiveSubject}}); err != nil {
			return nil, err
		}
		sys.service, err = startProcess(dir, "naive", nil, p.bench, "naive", sys.address, s.secret, sys.nats)
	case "ingress":
		return sys, sys.startIngress(ctx, p.ingress, s.secret)
	default: // the bench publishes
		sys.stream = bareStream
		return sys, sys.createStream(ctx, jetstream.StreamConfig{
			Subjects:           []string{"bare.>"},
			AllowAtomicPublish: t.batch > 1,
		})
	}
	if err != nil {
		return nil, err
	}
	err = sys.await(ctx, sys.service, func() error {
		conn, err := net.Dial("tcp", sys.address)
		if err == nil {
			conn.Close()
		}
		return err
	})
	sys.ready = time.Since(started)
	return sys, err
}

// startIngress starts the real program with its defaults, logging included.
func (sys *system) startIngress(ctx context.Context, program, secret string) error {
	sys.stream = "VERSIVE"
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	env := []string{
		"INGRESS_LISTEN=" + sys.address,
		"INGRESS_ADMIN_LISTEN=" + admin,
		"INGRESS_SECRETS=" + secret,
	}
	if sys.target.broker == "embedded" {
		listen, err := freeAddress()
		if err != nil {
			return err
		}
		sys.nats = "nats://" + listen
		env = append(env, "INGRESS_NATS_LISTEN="+listen, "INGRESS_DATA_DIR="+filepath.Join(sys.dir, "embedded"))
	} else {
		env = append(env, "INGRESS_NATS_URL="+sys.nats, "INGRESS_REPLICAS="+strconv.Itoa(len(sys.brokers)))
	}
	started := time.Now()
	if sys.service, err = startProcess(sys.dir, "ingress", env, program, "serve"); err != nil {
		return err
	}
	err = sys.await(ctx, sys.service, func() error {
		answer, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New("readyz: " + answer.Status)
		}
		return nil
	})
	sys.ready = time.Since(started)
	return err
}

// startBrokers starts one broker, or three as a cluster.
func (sys *system) startBrokers(ctx context.Context, program string) error {
	count := 1
	switch sys.target.broker {
	case "", "embedded":
		return nil
	case "cluster", "cluster-lazy":
		count = 3
	}
	dirs, clients, cluster := make([]string, count), make([]string, count), make([]string, count)
	for n := range count {
		dirs[n] = filepath.Join(sys.dir, "broker-"+strconv.Itoa(n+1))
		var err1, err2 error
		clients[n], err1 = freeAddress()
		cluster[n], err2 = freeAddress()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
	}
	always := !strings.HasSuffix(sys.target.broker, "lazy")
	for n, args := range brokerArgs(dirs, clients, cluster, always) {
		p, err := startProcess(sys.dir, "broker-"+strconv.Itoa(n+1), nil, program, args...)
		if err != nil {
			return err
		}
		sys.brokers = append(sys.brokers, p)
	}
	sys.nats = "nats://" + strings.Join(clients, ",nats://")
	return sys.await(ctx, sys.brokers[0], func() error {
		js, closeConn, err := connect(sys.nats)
		if err != nil {
			return err
		}
		defer closeConn()
		_, err = js.AccountInfo(ctx) // on a cluster: there is a leader
		return err
	})
}

// createStream creates the stream of a reference: the defaults, on file, on
// all brokers.
func (sys *system) createStream(ctx context.Context, config jetstream.StreamConfig) error {
	js, closeConn, err := connect(sys.nats)
	if err != nil {
		return err
	}
	defer closeConn()
	config.Name, config.Storage, config.Replicas = sys.stream, jetstream.FileStorage, len(sys.brokers)
	return sys.await(ctx, sys.brokers[0], func() error {
		_, err := js.CreateOrUpdateStream(ctx, config)
		return err
	})
}

// await polls until ready returns nil, p has ended or the time is over.
func (sys *system) await(ctx context.Context, p *process, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if failed := p.failed(); failed != nil {
			return failed
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (last: %v)", p.name, context.Cause(ctx), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// services returns the service as a list, which may be empty.
func (sys *system) services() []*process {
	if sys.service == nil {
		return nil
	}
	return []*process{sys.service}
}

// failed returns an error if a process has ended that should not have.
func (sys *system) failed() error {
	for _, p := range append(sys.services(), sys.brokers...) {
		if err := p.failed(); err != nil {
			return err
		}
	}
	return nil
}

// stop ends all processes. The data stays.
func (sys *system) stop() {
	for _, p := range append(sys.services(), sys.brokers...) {
		p.stop()
	}
}

// A target names a system: a handler, and after a slash the broker behind it.
type target struct {
	handler string // ingress, naive, plain, singles or batches
	broker  string // embedded, always, lazy, cluster, cluster-lazy; "" with plain
	batch   int    // events in one publish
}

// targetNames tells people what there is.
const targetNames = "ingress/embedded, {ingress,naive,singles,batches-N}/{always,lazy,cluster,cluster-lazy}, plain"

func parseTarget(name string) (target, error) {
	handler, broker, _ := strings.Cut(name, "/")
	t := target{handler, broker, 1}
	unknown := fmt.Errorf("target %q: want one of %s", name, targetNames)
	if size, ok := strings.CutPrefix(handler, "batches-"); ok {
		n, err := strconv.Atoi(size)
		if err != nil || n < 2 || n > 1000 {
			return target{}, unknown
		}
		t.handler, t.batch = "batches", n
	}
	switch t.handler {
	case "plain":
		if broker == "" {
			return t, nil
		}
	case "ingress", "naive", "singles", "batches":
		switch broker {
		case "embedded":
			if handler == "ingress" {
				return t, nil
			}
		case "always", "lazy", "cluster", "cluster-lazy":
			return t, nil
		}
	}
	return target{}, unknown
}

// newDir returns a new directory below parent for the data of one system.
func newDir(parent string) (string, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(parent, "data-")
}
