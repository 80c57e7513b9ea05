package publish_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
	"versive-ingress/schema"
)

// A diskTest publishes to an embedded broker on a faulty disk.
type diskTest struct {
	*testing.T
	disk   *faultdisk.Disk
	mode   publish.Mode
	broker *embedded.Broker
	// The second publisher resends messages for which the first may still wait.
	first, second *publish.Publisher

	mu           sync.Mutex
	acknowledged map[string]schema.Receipt
}

// start starts the broker and the publishers, and checks that all acknowledged events
// are stored.
func (d *diskTest) start() {
	d.Helper()
	d.broker = embeddedtest.StartBroker(d.T, embedded.Config{Dir: filepath.Join(d.disk.Dir, "data")})
	cfg := config("")
	cfg.Mode = d.mode
	cfg.Timeout = 3 * time.Second
	cfg.Options = []nats.Option{nats.InProcessServer(d.broker)}
	cfg.MayCreate, cfg.Durable = d.broker.MayCreate, d.broker.Durable
	d.first, d.second = openPublisher(d.T, cfg), openPublisher(d.T, cfg)

	at := make(map[string]uint64)
	stream, err := embeddedtest.Connect(d.T, d.broker.URL()).Stream(d.Context(), "VERSIVE")
	if err != nil {
		d.Fatal(err)
	}
	for sequence := uint64(1); sequence <= stream.CachedInfo().State.LastSeq; sequence++ {
		m, err := stream.GetMsg(d.Context(), sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) { // its write has failed, and the broker uses no sequence twice
			continue
		}
		if err != nil {
			d.Fatal(err)
		}
		id := m.Header.Get(jetstream.MsgIDHeader)
		if at[id] != 0 {
			d.Errorf("%s is stored twice", id)
		}
		at[id] = sequence
	}
	for id, receipt := range d.acknowledged {
		if at[id] != receipt.Sequence {
			d.Errorf("%s was acknowledged with %+v but is at %d", id, receipt, at[id])
		}
	}
}

// publish publishes 40 events concurrently with p, each once.
func (d *diskTest) publish(p *publish.Publisher, prefix string) {
	var wg sync.WaitGroup
	for i := range 40 {
		m := event(d.T, fmt.Sprint(prefix, "_", i))
		m.Data = append(m.Data, make([]byte, 20<<10)...) // so that it has pages that no later write touches
		wg.Go(func() {
			if receipt, err := p.Publish(d.Context(), m); err == nil {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.acknowledged[m.ID] = receipt
			}
		})
	}
	wg.Wait()
}

// fail publishes events while the disk fails some of their writes, until the broker
// is not ready. Then it resends all of them with the second publisher. By then the
// disk works again if lift is set.
func (d *diskTest) fail(round string, lift bool) {
	d.Helper()
	part := "versive.interview.completed.s.i." + round + "_" // in a record of the stream's block
	if d.mode == publish.ModeBatch {
		part = "Nats-Batch-Commit: 1" // in the last record of a batch, and not in its staging area
	}
	d.disk.FailWrites(faultdisk.Holding([]byte(part), faultdisk.Always()))
	var wg sync.WaitGroup
	defer wg.Wait()
	var broken atomic.Bool
	wg.Go(func() {
		for prefix := round; !broken.Load(); prefix += "_more" { // on a busy machine, none of the first may be in a batch
			d.publish(d.first, prefix)
		}
	})
	defer broken.Store(true)
	embeddedtest.Await(d.T, "the broker is broken", func() bool { return d.broker.Ready() != nil })
	broken.Store(true)
	if lift {
		d.disk.FailWrites(nil)
	} else {
		for range 32 { // concurrently, as on a busy machine
			wg.Go(func() {
				for range 100 {
					if d.broker.Durable(true) == nil {
						d.Error("what the broken broker knows is taken for durable")
						return
					}
				}
			})
		}
	}
	d.publish(d.second, round)
}

// heal waits until the broker has healed, and stores the failed events and others.
func (d *diskTest) heal(round string) {
	d.Helper()
	embeddedtest.Await(d.T, "the broker has healed", func() bool { return d.broker.Ready() == nil })
	for _, prefix := range []string{round, round + "_later"} {
		embeddedtest.Await(d.T, "everything is acknowledged", func() bool {
			d.publish(d.first, prefix)
			for i := range 40 {
				if _, ok := d.acknowledged[fmt.Sprint(prefix, "_", i)]; !ok {
					return false
				}
			}
			return true
		})
	}
}

func (d *diskTest) stop() {
	d.first.Close()
	d.second.Close()
	d.broker.Stop()
	d.disk.Remount()
}

// After a failed write, reads return the data from the page cache as if it had been
// written. Events that are acknowledged before, during and after that are on the disk
// nevertheless.
func TestDiskFailsToWrite(t *testing.T) {
	t.Parallel()
	for _, kind := range faultdisk.Kinds {
		for _, mode := range []publish.Mode{publish.ModeSingle, publish.ModeBatch} {
			t.Run(fmt.Sprint(kind, " ", mode), func(t *testing.T) {
				t.Parallel()
				d := &diskTest{T: t, disk: faultdisk.New(t, kind), mode: mode, acknowledged: make(map[string]schema.Receipt)}
				d.start()
				d.publish(d.first, "before")
				d.fail("healed", true)
				d.heal("healed")
				d.stop()

				d.start()
				d.fail("cut", true)
				d.heal("cut")
				d.disk.Cut(nil)
				d.stop()

				d.start()
				d.fail("broken", false)
				embeddedtest.Await(t, "the broker stays down and reports why", func() bool {
					err := d.broker.Ready()
					return err != nil && strings.Contains(err.Error(), "rewriting the last blocks")
				})
				d.disk.Cut(nil)
				d.stop()
				d.start()
			})
		}
	}
}
