package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestRecords checks the reader of block files against the blocks of this version
// of the server, with stored, overwritten and deleted messages.
func TestRecords(t *testing.T) {
	dir := t.TempDir()
	broker, err := Start(t.Context(), Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Stop()
	nc, err := nats.Connect("", nats.InProcessServer(broker))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		msg := &nats.Msg{Subject: fmt.Sprintf("s.%d", i), Data: make([]byte, 1000)}
		if i%2 == 0 {
			msg.Header = nats.Header{"Name": {"value"}}
		}
		if _, err := js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.SecureDeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 5); err != nil {
		t.Fatal(err)
	}

	block, err := os.ReadFile(filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "1.blk"))
	if err != nil {
		t.Fatal(err)
	}
	var stored, erased, deletions []uint64
	for r, err := range records("S", 1, block) {
		switch {
		case err != nil:
			t.Fatal(err)
		case r.deletion:
			deletions = append(deletions, r.sequence)
		case r.erased:
			erased = append(erased, r.sequence)
		default:
			stored = append(stored, r.sequence)
			if want := fmt.Sprintf("s.%d", r.sequence-1); string(r.subject) != want {
				t.Errorf("sequence %d has the subject %q, want %q", r.sequence, r.subject, want)
			}
		}
	}
	got := fmt.Sprint("stored ", stored, ", erased ", erased, ", deleted ", deletions)
	if want := "stored [1 2 4 5 6 7 8 9 10], erased [3], deleted [3 5]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	block[len(block)-100] ^= 1 // in the last message or a deletion marker after it
	var damaged error
	for _, err := range records("S", 1, block) {
		damaged = err
	}
	if !errors.Is(damaged, errDamaged) {
		t.Errorf("a flipped bit: got %v, want %v", damaged, errDamaged)
	}
}
