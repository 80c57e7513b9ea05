package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
	"versive-ingress/schema"
)

// A webhook stays in the quarantine if the broker knows its event only from a batch that
// the disk has failed to write.
func TestRequeueAfterFailedWrite(t *testing.T) {
	t.Parallel()
	disk := faultdisk.New(t, faultdisk.Ext4)
	s := newSettings(t)
	s.DataDir = disk.Dir + "/data"
	b := embeddedtest.StartBroker(t, embedded.Config{Dir: s.DataDir, Listen: s.NATSListen})
	publisher, err := publish.Open(t.Context(), publish.Config{
		Options: []nats.Option{nats.InProcessServer(b)}, Stream: s.Stream, Subject: s.Subject, Replicas: 1, DedupeWindow: time.Hour,
		Timeout: time.Second, Mode: publish.ModeBatch, MayCreate: b.MayCreate, Durable: b.Durable,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	js := embeddedtest.Connect(t, b.URL())
	isStored := func(m schema.Message) (bool, error) {
		stream, err := js.Stream(t.Context(), m.Kind.Stream(s.Stream))
		if err != nil {
			return false, err
		}
		last, err := publish.LastMessage(t.Context(), stream, m.Subject(s.Subject))
		return err == nil && last.Sequence > 0 && !schema.IsTombstone(last.Header), err
	}

	for round, conclusive := 0, false; !conclusive; round++ {
		var events, webhooks []schema.Message
		for i := range 40 {
			id := fmt.Sprintf("msg_%d_%d", round, i)
			event, err := schema.Normalize(id, interview(id))
			if err != nil {
				t.Fatal(err)
			}
			webhook := schema.Quarantine(id, interview(id), &schema.Error{Reason: schema.Invalid}, nil)
			if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: webhook.Subject(s.Subject), Header: webhook.Header, Data: webhook.Data}); err != nil {
				t.Fatal(err)
			}
			events, webhooks = append(events, event), append(webhooks, webhook)
		}
		disk.FailWrites(faultdisk.Holding([]byte("Nats-Batch-Commit: 1"), faultdisk.Always()))
		var wg sync.WaitGroup
		for _, event := range events {
			wg.Go(func() { _, _ = publisher.Publish(t.Context(), event) })
		}
		embeddedtest.Await(t, "the broker is broken", func() bool { return b.Durable(true) != nil })
		disk.FailWrites(nil)
		out, known := "", slices.IndexFunc(events, func(m schema.Message) bool {
			stored, err := isStored(m)
			return err == nil && stored
		})
		if known >= 0 {
			out, _ = runCommand(t, "versive-ingress", s, "quarantine", "requeue", events[known].ID)
			err := b.Durable(true)
			conclusive = err != nil && strings.Contains(err.Error(), "write error") // it was not restarted meanwhile
		}
		wg.Wait()
		embeddedtest.Await(t, "the broker has healed", func() bool { return b.Ready() == nil })
		if conclusive {
			kept := false
			embeddedtest.Await(t, "the quarantine can be read", func() bool {
				kept, err = isStored(webhooks[known])
				return err == nil
			})
			if !kept {
				t.Errorf("the webhook was deleted:\n%s", out)
			}
		}
	}
}
