package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// A system is what is measured: a service that takes webhooks, if there is one,
// and the brokers that it stores them in, if they are processes of their own.
type system struct {
	target   target
	dir      string
	services []*process // one; none if the bench itself publishes
	brokers  []*process

	address string // of the service; "" if the bench itself publishes
	nats    string // URLs of the brokers; "" if nothing is stored
	js      jetstream.JetStream
	stream  string        // of the events; "" if nothing is stored
	ready   time.Duration // from the service's start until it was ready
}

// start starts the system of a case with its data in dir, which may hold data
// already, and returns when it is ready for events that secret signs.
func (b *bench) start(ctx context.Context, c testCase, dir, secret string) (_ *system, err error) {
	sys := &system{target: must(parseTarget(c.Target)), dir: dir}
	defer func() {
		if err != nil {
			sys.stop()
		}
	}()
	if err := sys.startBrokers(ctx, b.self); err != nil {
		return nil, err
	}
	switch sys.target.handler {
	case "singles", "batches":
		return sys, nil
	case "ingress":
		sys.stream = "VERSIVE"
	}
	ingress := b.ingress[0]
	if c.Other {
		ingress = b.ingress[1]
	}
	return sys, sys.startService(ctx, b.self, ingress, secret)
}

// startService starts the HTTP service and awaits that it is ready.
func (sys *system) startService(ctx context.Context, bench, ingress, secret string) error {
	addresses, err := freeAddresses(3)
	if err != nil {
		return err
	}
	admin, broker := addresses[1], addresses[2]
	sys.address = addresses[0]
	program, args, probe := bench, []string{sys.target.handler, sys.address, secret, sys.nats}, "http://"+sys.address
	var env []string
	if sys.target.handler == "ingress" {
		program, args, probe = ingress, []string{"serve"}, "http://"+admin+"/readyz"
		env = []string{"INGRESS_LISTEN=" + sys.address, "INGRESS_ADMIN_LISTEN=" + admin, "INGRESS_SECRETS=" + secret}
		if sys.target.broker == "embedded" {
			sys.nats = "nats://" + broker
			env = append(env, "INGRESS_NATS_LISTEN="+broker, "INGRESS_DATA_DIR="+filepath.Join(sys.dir, "embedded"))
		} else {
			env = append(env, "INGRESS_NATS_URL="+sys.nats, "INGRESS_REPLICAS="+strconv.Itoa(len(sys.brokers)))
		}
	}
	started := time.Now()
	p, err := startProcess(sys.dir, sys.target.handler, env, program, args...)
	if err != nil {
		return err
	}
	sys.services = []*process{p}
	err = await(ctx, p, func() error {
		response, err := http.Get(probe)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode >= 500 { // a reference refuses a GET, which shows that it serves
			return errors.New(response.Status)
		}
		return nil
	})
	sys.ready = time.Since(started)
	if err == nil && sys.js == nil && sys.nats != "" {
		sys.js, err = connect(sys.nats)
	}
	return err
}

// startBrokers starts one broker, or three as a cluster, and awaits that they have
// created the stream of the references: the defaults, on file, on all of them.
func (sys *system) startBrokers(ctx context.Context, bench string) error {
	kind := sys.target.broker
	if kind == "" || kind == "embedded" {
		return nil
	}
	count, sync := 1, "always"
	if strings.HasPrefix(kind, "cluster") {
		count = 3
	}
	if strings.HasSuffix(kind, "lazy") {
		sync = "2m" // the server's default
	}
	addresses, err := freeAddresses(2 * count)
	if err != nil {
		return err
	}
	clients, routes := addresses[:count], addresses[count:]
	for n := range count {
		name := "broker-" + strconv.Itoa(n+1)
		// max_payload is that of deploy/nats: room for a body of 8 MiB.
		config := fmt.Sprintf("server_name: %s\nlisten: %q\nmax_payload: 9MB\njetstream { store_dir: %q, sync_interval: %q }\n",
			name, clients[n], filepath.Join(sys.dir, name), sync)
		if count > 1 {
			config += fmt.Sprintf("cluster { name: bench, listen: %q, routes: [nats://%s] }\n", routes[n], strings.Join(routes, ", nats://"))
		}
		file := filepath.Join(sys.dir, name+".conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		p, err := startProcess(sys.dir, name, nil, bench, "broker", file)
		if err != nil {
			return err
		}
		sys.brokers = append(sys.brokers, p)
	}
	sys.nats = "nats://" + strings.Join(clients, ",nats://")
	sys.stream = "BENCH"
	return await(ctx, sys.brokers[0], func() (err error) {
		if sys.js == nil {
			if sys.js, err = connect(sys.nats); err != nil {
				return err
			}
		}
		_, err = sys.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: sys.stream, Subjects: []string{"bench.>"}, Replicas: count, AllowAtomicPublish: sys.target.batch > 1,
		})
		return err
	})
}

// await retries do until it succeeds, p has ended, or two minutes have passed,
// which is enough to recover a stream of a million events.
func await(ctx context.Context, p *process, do func() error) error {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := do()
		if err == nil {
			return nil
		}
		if failed := p.failed(); failed != nil {
			return failed
		}
		if time.Now().After(deadline) || !sleepUntil(ctx, time.Now().Add(5*time.Millisecond)) {
			return fmt.Errorf("%s is not ready: %w", p.name, errors.Join(ctx.Err(), err))
		}
	}
}

func (sys *system) processes() []*process { return slices.Concat(sys.services, sys.brokers) }

// failed returns an error if a process has ended.
func (sys *system) failed() (err error) {
	for _, p := range sys.processes() {
		err = errors.Join(err, p.failed())
	}
	return err
}

// stop ends all processes. The data stays. It may be called concurrently.
func (sys *system) stop() {
	for _, p := range sys.processes() {
		p.stop()
	}
	if sys.js != nil {
		sys.js.Conn().Close()
	}
}

// senders returns n senders: HTTP connections to the service, or, without one,
// publishers of batches. They share one connection, as in a service.
func (sys *system) senders(n, batch int) []sender {
	if sys.address != "" {
		return posts(sys.address, n)
	}
	return slices.Repeat([]sender{publisher{sys.js, batch}}, n)
}

// A publisher publishes events without a service.
type publisher struct {
	js    jetstream.JetStream
	batch int // 1: no atomic batches
}

func (p publisher) send(events []*event) (accepted bool, err error) {
	messages := make([]*nats.Msg, len(events))
	for i, e := range events {
		messages[i] = &nats.Msg{Subject: "bench." + e.id, Header: nats.Header{jetstream.MsgIDHeader: {e.id}}, Data: e.body}
	}
	if p.batch == 1 {
		_, err = p.js.PublishMsg(context.Background(), messages[0]) // awaits the acknowledgement for 5 s
	} else { // awaits the commit's acknowledgement; by default the first message's as well
		flow := jetstreamext.BatchFlowControl{AckTimeout: 10 * time.Second}
		_, err = jetstreamext.PublishMsgBatch(context.Background(), p.js, messages, flow)
	}
	return err == nil, err
}

func (p publisher) close() {} // the connection is the system's
