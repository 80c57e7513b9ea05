package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// self is this program, which runs the references as well.
const self = "/proc/self/exe"

// A system is the subject of a measurement: a service that takes webhooks, and brokers
// that it stores them in. Without a service, the bench publishes itself.
type system struct {
	ctx  context.Context // done after fail, or when the measurement is interrupted
	fail context.CancelCauseFunc
	dir  string
	host string // for the addresses of all processes

	processes []*process // brokers, unless the service embeds one, and at most one service
	address   string     // of the service, or ""
	nats      string     // URLs of the brokers; "" if nothing is stored
	js        jetstream.JetStream
	stream    string        // of the events; "" if nothing is stored
	ready     time.Duration // from the start of the service until it was ready
}

// start starts the system of a case with its data in dir, which may hold data
// already. It returns when the system is ready for events that secret signs.
func (b *bench) start(ctx context.Context, c testCase, dir, secret string) (*system, error) {
	// A loopback address of its own makes the ports free. They are below those that
	// the kernel gives to outgoing connections.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(255), 1+rand.IntN(254))
	sys := &system{dir: dir, host: host}
	sys.ctx, sys.fail = context.WithCancelCause(ctx)
	handler, broker, batch := c.parts()
	var err error
	if broker != "" && broker != "embedded" {
		err = sys.startBrokers(broker, batch)
	}
	if err == nil && handler != "singles" && handler != "batches" {
		program := self
		if handler == "ingress" {
			program = b.ingress[0]
			if c.Other {
				program = b.ingress[1]
			}
		}
		err = sys.startService(handler, program, secret)
	}
	if err == nil && sys.js == nil && sys.nats != "" {
		sys.js, err = connect(sys.nats)
	}
	if err != nil {
		sys.stop()
	}
	return sys, err
}

// startBrokers starts one broker, or three as a cluster, and awaits that they have
// created the stream of the references: with the defaults, stored on all of them.
func (sys *system) startBrokers(kind string, batch int) error {
	const port, routePort = 24_222, 26_222 // of the first
	count, syncInterval := 1, "always"
	switch kind {
	case "cluster":
		count = 3
	case "lazy":
		syncInterval = "2m" // the server's default
	}
	var urls, routes []string
	for n := range count {
		urls = append(urls, fmt.Sprintf("nats://%s:%d", sys.host, port+n))
		routes = append(routes, fmt.Sprintf("nats://%s:%d", sys.host, routePort+n))
	}
	for n := range count {
		name := "broker-" + strconv.Itoa(n+1)
		// max_payload is that of deploy/nats: room for a body of 8 MiB.
		config := fmt.Sprintf("server_name: %s\nlisten: %q\nmax_payload: 9MB\njetstream { store_dir: %q, sync_interval: %q }\n",
			name, strings.TrimPrefix(urls[n], "nats://"), filepath.Join(sys.dir, name), syncInterval)
		if count > 1 {
			config += fmt.Sprintf("cluster { name: bench, listen: %q, routes: [%s] }\n", strings.TrimPrefix(routes[n], "nats://"), strings.Join(routes, ", "))
		}
		file := filepath.Join(sys.dir, name+".conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		if err := sys.startProcess("broker", name, nil, self, "broker", file); err != nil {
			return err
		}
	}
	sys.nats = strings.Join(urls, ",")
	sys.stream = "BENCH"
	return sys.await(func() (err error) {
		if sys.js == nil {
			if sys.js, err = connect(sys.nats); err != nil {
				return err
			}
		}
		_, err = sys.js.CreateOrUpdateStream(sys.ctx, jetstream.StreamConfig{
			Name: sys.stream, Subjects: []string{"bench.>"}, Replicas: count, AllowAtomicPublish: batch > 1,
		})
		return err
	})
}

// startService starts a service and awaits that it is ready.
func (sys *system) startService(handler, program, secret string) error {
	sys.address = sys.host + ":28080"
	args, probe := []string{handler, sys.address, secret, sys.nats}, "http://"+sys.address
	var env []string
	if handler == "ingress" {
		admin := sys.host + ":29090"
		args, probe = []string{"serve"}, "http://"+admin+"/readyz"
		env = []string{"INGRESS_LISTEN=" + sys.address, "INGRESS_ADMIN_LISTEN=" + admin, "INGRESS_SECRETS=" + secret}
		sys.stream = "VERSIVE"
		if len(sys.processes) == 0 {
			broker := sys.host + ":24222"
			sys.nats = "nats://" + broker
			env = append(env, "INGRESS_NATS_LISTEN="+broker, "INGRESS_DATA_DIR="+filepath.Join(sys.dir, "embedded"))
		} else {
			env = append(env, "INGRESS_NATS_URL="+sys.nats, "INGRESS_REPLICAS="+strconv.Itoa(len(sys.processes)))
		}
	}
	started := time.Now()
	if err := sys.startProcess("service", handler, env, program, args...); err != nil {
		return err
	}
	err := sys.await(func() error {
		response, err := http.Get(probe)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode >= 500 { // a reference may refuse a GET, which shows that it serves
			return errors.New(response.Status)
		}
		return nil
	})
	sys.ready = time.Since(started)
	return err
}

// await retries do until it succeeds, a process has ended, or two minutes have
// passed, which is enough to recover a stream of a million events.
func (sys *system) await(do func() error) error {
	ctx, cancel := context.WithTimeout(sys.ctx, 2*time.Minute)
	defer cancel()
	for {
		err := do()
		if err == nil {
			return nil
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// stop ends all processes and connections. The data stays.
func (sys *system) stop() {
	for _, p := range slices.Backward(sys.processes) { // the service before its brokers
		p.stop()
	}
	sys.fail(nil)
	if sys.js != nil {
		sys.js.Conn().Close()
	}
}

// senders returns n senders: clients of the service, or publishers.
func (sys *system) senders(n int) []sender {
	senders := make([]sender, n)
	for i := range senders {
		if sys.address == "" {
			senders[i] = sys.publish
		} else {
			senders[i] = (&client{ctx: sys.ctx, address: sys.address}).send
		}
	}
	return senders
}
