package embedded_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// fill creates a stream of large messages, which take several block files. Each has
// unique content; see contentsIn.
func fill(t *testing.T, js jetstream.JetStream, messages int, config jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	config.Name, config.Subjects = "S", []string{"s"}
	stream, err := js.CreateStream(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if _, err := js.Publish(t.Context(), "s", append(make([]byte, 900<<10), content(i+1)...)); err != nil {
			t.Fatal(err)
		}
	}
	return stream
}

func content(sequence int) string { return fmt.Sprintf("<content of message %d>", sequence) }

// contentsIn returns the sequences of the messages whose content is in the data
// directory.
func contentsIn(t *testing.T, dir string, messages int) (found []uint64) {
	t.Helper()
	var all []byte
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var text []byte
		if err == nil && d.Type().IsRegular() {
			text, err = os.ReadFile(path)
			all = append(all, text...)
		}
		if errors.Is(err, fs.ErrNotExist) { // removed by the server
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if bytes.Contains(all, []byte(content(i+1))) {
			found = append(found, uint64(i+1))
		}
	}
	return found
}

// After a crash that restored the old block files, the server still considers the
// messages deleted. Sync finds their content, and the next start overwrites it, in
// every block, and nothing else.
func TestRestoredBlocks(t *testing.T) {
	t.Parallel()
	for _, index := range []string{"kept", "lost"} {
		t.Run("index "+index, func(t *testing.T) {
			t.Parallel()
			const messages = 22
			cfg := embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}
			broker := embeddedtest.StartBroker(t, cfg)
			stream := fill(t, inProcess(t, broker), messages, jetstream.StreamConfig{})
			erased := embedded.Erased{Stream: "S", Created: stream.CachedInfo().Created, Sequences: []uint64{21, 2, 12, 3}}
			blocks := filepath.Join(cfg.Dir, "jetstream", "$G", "streams", "S", "msgs")
			// The disk has these files until the directory is synced. The server appends
			// to them until it renames the new ones.
			old := t.TempDir()
			names, err := filepath.Glob(filepath.Join(blocks, "*.blk"))
			if err != nil || len(names) < 3 {
				t.Fatal(names, err)
			}
			for _, name := range names {
				if err := os.Link(name, filepath.Join(old, filepath.Base(name))); err != nil {
					t.Fatal(err)
				}
			}
			for _, sequence := range erased.Sequences {
				if err := stream.SecureDeleteMsg(t.Context(), sequence); err != nil {
					t.Fatal(err)
				}
			}
			if remaining, err := erased.Sync(cfg.Dir); err != nil || len(remaining) > 0 {
				t.Errorf("before the crash: remaining %v, %v", remaining, err)
			}
			broker.Stop()
			for _, name := range names {
				if err := os.Rename(filepath.Join(old, filepath.Base(name)), name); err != nil {
					t.Fatal(err)
				}
			}
			if index == "lost" {
				if err := os.Remove(filepath.Join(blocks, "index.db")); err != nil {
					t.Fatal(err)
				}
			}

			broker = embeddedtest.StartBroker(t, cfg)
			remaining, err := erased.Sync(cfg.Dir)
			if want := []uint64{2, 3, 12, 21}; err != nil || !slices.Equal(remaining, want) {
				t.Errorf("remaining %v, %v; want %v", remaining, err, want)
			}
			if got := contentsIn(t, cfg.Dir, messages); len(got) != messages {
				t.Fatalf("the directory has the content of %v", got)
			}
			// A full disk has truncated an earlier schedule.
			if err := os.WriteFile(filepath.Join(cfg.Dir, "erased.jsonl"), []byte(`{"Stream":"S`), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := erased.Schedule(cfg.Dir); err != nil {
				t.Fatal(err)
			}
			broker.Stop()

			broker = embeddedtest.StartBroker(t, cfg)
			if remaining, err := erased.Sync(cfg.Dir); err != nil || len(remaining) > 0 {
				t.Errorf("after the next start: remaining %v, %v", remaining, err)
			}
			want := slices.DeleteFunc(contentsIn(t, cfg.Dir, messages), func(s uint64) bool { return slices.Contains(erased.Sequences, s) })
			if got := contentsIn(t, cfg.Dir, messages); len(got) != messages-4 || !slices.Equal(got, want) {
				t.Errorf("the directory has the content of %v", got)
			}
			if stream, err = inProcess(t, broker).Stream(t.Context(), "S"); err != nil {
				t.Fatal(err)
			}
			if state := stream.CachedInfo().State; state.Msgs != messages-4 || state.LastSeq != messages {
				t.Errorf("the stream is %+v", state)
			}
			for _, sequence := range want {
				if m, err := stream.GetMsg(t.Context(), sequence); err != nil || !bytes.HasSuffix(m.Data, []byte(content(int(sequence)))) {
					t.Errorf("message %d: %v", sequence, err)
				}
			}
			if list, err := filepath.Glob(filepath.Join(cfg.Dir, "*erased*")); len(list) > 0 || err != nil {
				t.Errorf("%v still exists, %v", list, err)
			}
		})
	}
}

// A schedule that is truncated, or for another stream of the same name, overwrites
// nothing and is removed.
func TestScheduleOfAnotherStream(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}
	broker := embeddedtest.StartBroker(t, cfg)
	created := fill(t, inProcess(t, broker), 2, jetstream.StreamConfig{}).CachedInfo().Created
	for _, e := range []embedded.Erased{
		{Stream: "S", Created: created.Add(-time.Hour), Sequences: []uint64{1}},
		{Stream: "T", Created: created, Sequences: []uint64{1}},
	} {
		if _, err := e.Sync(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%+v: got error %v", e, err)
		}
		if err := e.Schedule(cfg.Dir); err != nil {
			t.Fatal(err)
		}
	}
	broker.Stop()
	file, err := os.OpenFile(filepath.Join(cfg.Dir, "erased.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(`{"Stream":"S","Created":"`); err != nil {
		t.Fatal(err)
	}
	file.Close()
	embeddedtest.StartBroker(t, cfg)
	if got := contentsIn(t, cfg.Dir, 2); len(got) != 2 {
		t.Errorf("only the content of %v is there", got)
	}
	if _, err := os.Stat(file.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the schedule still exists: %v", err)
	}
}

// Sync returns an error for a stream whose messages are not overwritten and for one
// whose blocks cannot be searched.
func TestSyncUnverified(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config string
		stream jetstream.StreamConfig
		want   error
	}{
		"encrypted":  {config: `jetstream { key: "a key" }`, want: embedded.ErrEncrypted},
		"compressed": {stream: jetstream.StreamConfig{Compression: jetstream.S2Compression}, want: embedded.ErrCompressed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := embedded.Config{Dir: t.TempDir()}
			cfg.ConfigFile = writeConfig(t, "listen: \"127.0.0.1:-1\"\n"+test.config)
			stream := fill(t, inProcess(t, embeddedtest.StartBroker(t, cfg)), 12, test.stream)
			if err := stream.SecureDeleteMsg(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			erased := embedded.Erased{Stream: "S", Created: stream.CachedInfo().Created, Sequences: []uint64{2}}
			embeddedtest.Await(t, "the error", func() bool { // the server compresses a block some time after it has begun the next
				remaining, err := erased.Sync(cfg.Dir)
				return errors.Is(err, test.want) && len(remaining) == 0
			})
		})
	}
}

// After a failure a schedule stays. Until the next start, the server may have lost the end
// of a block and reused its sequences. The new messages are not overwritten.
func TestScheduleSparesLaterMessages(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}
	newStore(t, cfg.Dir)
	broker := embeddedtest.StartBroker(t, cfg)
	stream, err := inProcess(t, broker).Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 50); err != nil { // as if the overwrite had been undone
		t.Fatal(err)
	}
	erased := embedded.Erased{Stream: "S", Created: stream.CachedInfo().Created, Sequences: []uint64{50}}
	if err := erased.Schedule(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	broker.Stop()
	edit(t, cfg.Dir, "msgs/1.blk", func(content string) []byte { return []byte(content[:strings.Index(content, "s.39")]) })
	edit(t, cfg.Dir, "msgs/index.db", removed)

	broker = embeddedtest.StartBroker(t, cfg)
	js := inProcess(t, broker)
	for {
		ack, err := js.Publish(t.Context(), "s.later", []byte("content"))
		if err != nil {
			t.Fatal(err)
		}
		if ack.Sequence == 50 {
			break
		}
		if ack.Sequence > 50 {
			t.Fatalf("sequence %d: nothing was dropped", ack.Sequence)
		}
	}
	broker.Stop()

	broker = embeddedtest.StartBroker(t, cfg)
	if stream, err = inProcess(t, broker).Stream(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.GetMsg(t.Context(), 50); err != nil || string(m.Data) != "content" {
		t.Errorf("the acknowledged message 50: %v", err)
	}
}
