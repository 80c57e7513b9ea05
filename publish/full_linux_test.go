package publish_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/publish/embedded/embeddedtest/faultdisk"
	"versive-ingress/schema"
)

// A message that the broker cannot store for lack of space fails soon, and not after
// the timeout. Messages are stored as soon as there is space.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	for _, mode := range []publish.Mode{publish.ModeSingle, publish.ModeBatch} {
		for _, full := range []string{"store", "disk"} {
			t.Run(fmt.Sprint(full, " ", mode), func(t *testing.T) {
				t.Parallel()
				disk := faultdisk.New(t, faultdisk.Ext4)
				store := embedded.Config{Dir: filepath.Join(disk.Dir, "data"), MaxStore: faultdisk.Size}
				if full == "store" {
					store.MaxStore = 2 << 20
				}
				broker := embeddedtest.StartBroker(t, store)
				js := embeddedtest.Connect(t, broker.URL())
				cfg := config("")
				cfg.Mode, cfg.Timeout = mode, 4*embeddedtest.Timeout
				cfg.Options = []nats.Option{nats.InProcessServer(broker)}
				cfg.MayCreate, cfg.Durable, cfg.Ready = broker.MayCreate, broker.Durable, broker.Ready
				p := openPublisher(t, cfg)
				if full == "disk" {
					disk.Fill(2 << 20)
				}

				var failed []schema.Message
				reasons := make(map[string]int)
				for round := 0; len(failed) == 0; round++ {
					if round == 100 {
						t.Fatal("nothing is full")
					}
					messages := events(t, 40*round, 40)
					for i := range messages {
						messages[i].Data = append(messages[i].Data, make([]byte, 20<<10)...)
					}
					outcomes := make(chan []outcome, 1)
					go func() { outcomes <- publishAll(t, p, messages) }()
					for i, o := range embeddedtest.Receive(t, "the outcomes of all messages", outcomes) {
						if e, ok := errors.AsType[*publish.Error](o.err); ok {
							failed = append(failed, messages[i])
							reasons[e.Reason()]++
						}
					}
				}
				if len(reasons) != 1 || reasons["full"] == 0 {
					t.Errorf("got reasons %v, want full", reasons)
				}
				_, err := p.Publish(t.Context(), event(t, "msg_later"))
				wantReason(t, err, "full")

				if full == "disk" {
					disk.Free()
				} else {
					stream, err := js.Stream(t.Context(), "VERSIVE")
					if err != nil {
						t.Fatal(err)
					}
					if err := stream.Purge(t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
						t.Fatal(err)
					}
				}
				if o := publishUntilStored(t, p, failed[0]); o.err != nil {
					t.Error(o.err)
				}
			})
		}
	}
}

// A message that cannot be written to an empty stream, and leaves a gap there, is no loss.
func TestNoSpaceForTheFirst(t *testing.T) {
	t.Parallel()
	disk := faultdisk.New(t, faultdisk.Ext4)
	broker := embeddedtest.StartBroker(t, embedded.Config{Dir: filepath.Join(disk.Dir, "data"), MaxStore: faultdisk.Size})
	registry := prometheus.NewRegistry()
	cfg := config("")
	cfg.Options, cfg.Metrics = []nats.Option{nats.InProcessServer(broker)}, registry
	cfg.MayCreate, cfg.Durable, cfg.Ready = broker.MayCreate, broker.Durable, broker.Ready
	p := openPublisher(t, cfg)
	disk.Fill(0)
	m := event(t, "msg_1")
	m.Data = append(m.Data, make([]byte, 4<<20)...)
	if _, err := p.Publish(t.Context(), m); err == nil {
		t.Fatal("stored on a full disk")
	}
	disk.Free()
	if o := publishUntilStored(t, p, m); o.err != nil || o.receipt.Sequence != 2 {
		t.Fatalf("got %+v, want sequence 2, after the gap", o)
	}
	embeddedtest.Await(t, "the stream is checked", func() bool { return gather(t, registry)["stream_messages VERSIVE"] == 1 })
	if n := gather(t, registry)["stream_lost_events_total VERSIVE"]; n != 0 {
		t.Errorf("%v messages are reported as lost", n)
	}
}

// A batch with which the store reaches its limit is stored in part, without an fsync and
// without an answer. A resend of that part is a duplicate, and a power cut does not lose it
// after it was confirmed.
func TestResendAfterBatchAtLimit(t *testing.T) {
	t.Parallel()
	disk := faultdisk.New(t, faultdisk.Ext4)
	store := embedded.Config{Dir: filepath.Join(disk.Dir, "data"), MaxStore: 2 << 20}
	broker := embeddedtest.StartBroker(t, store)
	cfg := config("")
	cfg.Mode, cfg.Options = publish.ModeBatch, []nats.Option{nats.InProcessServer(broker)}
	cfg.MayCreate, cfg.Durable, cfg.Sync, cfg.Ready = broker.MayCreate, broker.Durable, broker.Sync, broker.Ready
	p := openPublisher(t, cfg)

	resent := make(map[string]schema.Receipt)
	for from := 0; len(resent) == 0; from += 40 {
		if from == 4000 {
			t.Fatal("no batch was stored in part")
		}
		messages := events(t, from, 40)
		for i := range messages {
			messages[i].Data = append(messages[i].Data, make([]byte, 20<<10)...)
		}
		failed := false
		for i, o := range publishAll(t, p, messages) {
			if o.err == nil {
				continue
			}
			failed = true
			if receipt, err := p.Publish(t.Context(), messages[i]); err == nil {
				resent[o.id] = receipt
			}
		}
		if failed && len(resent) == 0 { // the limit was between two batches
			stream, err := embeddedtest.Connect(t, broker.URL()).Stream(t.Context(), "VERSIVE")
			if err == nil {
				err = stream.Purge(t.Context(), jetstream.WithPurgeKeep(1))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	disk.Cut(nil)
	p.Close()
	broker.Stop()
	disk.Remount()

	store.MaxStore = faultdisk.Size
	stream, err := embeddedtest.Connect(t, embeddedtest.StartBroker(t, store).URL()).Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	for id, receipt := range resent {
		if m, err := stream.GetMsg(t.Context(), receipt.Sequence); err != nil || m.Header.Get(jetstream.MsgIDHeader) != id {
			t.Errorf("%s was confirmed with %+v and is lost: %v", id, receipt, err)
		}
	}
}

// A batch with which the account reaches its limit is stored in part and without an fsync,
// too, and can end in another block than it began in. A message that is stored in that
// block afterwards is not confirmed before the rest of the batch is on the disk: a power
// cut would leave a gap before it, which would be reported as a loss.
func TestStoreAfterBatchAtLimit(t *testing.T) {
	t.Parallel()
	disk := faultdisk.New(t, faultdisk.Ext4)
	store := embedded.Config{Dir: filepath.Join(disk.Dir, "data"), ConfigFile: filepath.Join(t.TempDir(), "nats.conf"), MaxStore: faultdisk.Size}
	limit := func(size int) {
		text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\naccounts { INGRESS { users: [{user: u, password: p}], jetstream: {max_file: %d} } }\nno_auth_user: u", size)
		if err := os.WriteFile(store.ConfigFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	limit(14 << 20)
	broker := embeddedtest.StartBroker(t, store)
	cfg := config("")
	cfg.Mode, cfg.Options, cfg.Timeout = publish.ModeBatch, []nats.Option{nats.InProcessServer(broker)}, 3*time.Second
	cfg.MayCreate, cfg.Durable, cfg.Sync, cfg.Ready = broker.MayCreate, broker.Durable, broker.Sync, broker.Ready
	p := openPublisher(t, cfg)
	js := embeddedtest.Connect(t, broker.URL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"other"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "other", make([]byte, 512<<10)); err != nil {
		t.Fatal(err)
	}

	messages := events(t, 0, 390)
	for i := range messages {
		messages[i].Data = append(messages[i].Data, make([]byte, 50<<10)...)
	}
	for _, m := range messages[:140] { // most of a block of 8 MiB
		if o := publishUntilStored(t, p, m); o.err != nil {
			t.Fatal(o.err)
		}
	}
	failed := 0
	for _, o := range publishAll(t, p, messages[140:]) {
		if o.err != nil {
			failed++
		}
	}
	stream, err := js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	var absent []schema.Message
	for _, m := range messages {
		if _, err := stream.GetLastMsgForSubject(t.Context(), m.Subject("versive")); errors.Is(err, jetstream.ErrMsgNotFound) {
			absent = append(absent, m)
		}
	}
	if len(absent) == 0 || len(absent) == failed {
		t.Fatalf("%d messages failed, %d are not stored, want a batch that is stored in part", failed, len(absent))
	}
	_, err = p.Publish(t.Context(), absent[0])
	wantReason(t, err, "full")
	if p.Ready() == nil {
		t.Error("ready, and the account is full")
	}
	if err := js.DeleteStream(t.Context(), "OTHER"); err != nil {
		t.Fatal(err)
	}
	o := publishUntilStored(t, p, absent[0])
	if o.err != nil {
		t.Fatal(o.err)
	}
	disk.Cut(nil)
	p.Close()
	broker.Stop()
	disk.Remount()

	limit(faultdisk.Size)
	if stream, err = embeddedtest.Connect(t, embeddedtest.StartBroker(t, store).URL()).Stream(t.Context(), "VERSIVE"); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.GetMsg(t.Context(), o.receipt.Sequence); err != nil || m.Header.Get(jetstream.MsgIDHeader) != absent[0].ID {
		t.Errorf("%s was confirmed with %+v and is lost: %v", absent[0].ID, o.receipt, err)
	}
	if n := stream.CachedInfo().State.NumDeleted; n != 0 {
		t.Errorf("%d messages before it are missing", n)
	}
}

// The rest of a batch that was stored in part does not stay on the disk, where no erasure
// would find it.
func TestRestOfBatchAtLimit(t *testing.T) {
	t.Parallel()
	store := embedded.Config{Dir: t.TempDir(), MaxStore: 2 << 20}
	broker := embeddedtest.StartBroker(t, store)
	cfg := config("")
	cfg.Mode, cfg.Options = publish.ModeBatch, []nats.Option{nats.InProcessServer(broker)}
	cfg.MayCreate, cfg.Durable, cfg.Sync, cfg.Ready = broker.MayCreate, broker.Durable, broker.Sync, broker.Ready
	p := openPublisher(t, cfg)
	messages := events(t, 0, 150)
	for i := range messages {
		messages[i].Data = append(messages[i].Data, make([]byte, 20<<10)...)
	}
	publishAll(t, p, messages)
	staged := func() []string {
		batches, _ := filepath.Glob(filepath.Join(store.Dir, "jetstream/$G/streams/VERSIVE/batches/*"))
		return batches
	}
	if len(staged()) == 0 {
		t.Fatal("no batch was stored in part")
	}
	embeddedtest.Await(t, "nothing is staged", func() bool { return len(staged()) == 0 })
}
