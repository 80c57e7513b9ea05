package embedded_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// copyStore returns a copy of a data directory.
func copyStore(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// edit changes a file of newStore's stream, or removes it if change returns nil.
func edit(t *testing.T, dir, file string, change func(content string) []byte) {
	t.Helper()
	path := streamPath(dir, filepath.FromSlash(file))
	content, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if content = change(string(content)); content == nil {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func removed(string) []byte             { return nil }
func emptied(string) []byte             { return []byte{} }
func overwritten(content string) []byte { return []byte("0" + content) }
func halved(content string) []byte      { return []byte(content[:len(content)/2]) }

// replaced returns a change that replaces the first occurrence of text.
func replaced(text, by string) func(string) []byte {
	return func(content string) []byte { return []byte(strings.Replace(content, text, by, 1)) }
}

// The configuration of a stream or consumer consists of two files. After a crash
// between writing the two, the start repairs them; it fails if a configuration is
// damaged.
func TestConfigurationFiles(t *testing.T) {
	t.Parallel()
	plain, encrypted := t.TempDir(), t.TempDir()
	newStore(t, plain)
	key := writeConfig(t, "listen: \"127.0.0.1:-1\"\njetstream { key: \"a key of the store for this test\" }")
	newStore(t, encrypted, key)
	for _, test := range []struct {
		name      string
		encrypted bool
		file      string
		change    func(string) []byte
		logs      string // part of the log if the start repairs
		fails     string // part of the error if it fails
	}{
		{name: "a new stream", file: "meta.sum", change: removed, logs: "writing the checksum"},
		{name: "an updated stream", file: "meta.sum", change: overwritten, logs: "writing the checksum"},
		{name: "a new consumer", file: "obs/durable/meta.sum", change: removed, logs: "writing the checksum"},
		{name: "an updated consumer", file: "obs/durable/meta.sum", change: emptied, logs: "writing the checksum"},
		{name: "an encrypted stream", encrypted: true, file: "meta.sum", change: removed, logs: "writing the checksum"},
		{name: "an encrypted consumer", encrypted: true, file: "obs/durable/meta.sum", change: removed, logs: "writing the checksum"},

		{name: "no configuration", file: "meta.inf", change: removed, fails: "1.blk has messages, but no configuration"},
		{name: "an empty configuration", file: "meta.inf", change: emptied, fails: "1.blk has messages, but no configuration"},
		{name: "half a configuration", file: "meta.inf", change: halved, fails: "meta.inf is damaged"},
		{name: "a damaged configuration", file: "meta.inf", change: replaced(`"subjects"`, `"sudjects"`), fails: "meta.inf is damaged"},
		{name: "another stream's configuration", file: "meta.inf", change: replaced(`"S"`, `"T"`), fails: `it has the name "T"`},
		{name: "half a consumer's configuration", file: "obs/durable/meta.inf", change: halved, fails: "meta.inf is damaged"},
		{name: "half an encrypted configuration", encrypted: true, file: "meta.inf", change: halved, fails: "Error decrypting our stream metafile"},
		{name: "a configuration that the server does not accept", file: "meta.inf", change: replaced(`"num_replicas":1`, `"num_replicas":3`), fails: "replicas > 1 not supported"},
		{name: "a consumer that the server does not accept", file: "obs/durable/meta.inf", change: replaced(`"deliver_policy":"all"`, `"deliver_policy":"by_start_sequence"`), fails: "the consumer durable of stream S"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log strings.Builder // written by the broker, read when it has stopped
			cfg := embedded.Config{Dir: copyStore(t, plain), Listen: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(&log, nil))}
			if test.encrypted {
				cfg.Dir, cfg.Listen, cfg.ConfigFile = copyStore(t, encrypted), "", key
			}
			edit(t, cfg.Dir, test.file, test.change)
			before := contents(t, cfg.Dir)
			if test.fails != "" {
				startFails(t, cfg, test.fails)
				for path, content := range contents(t, cfg.Dir) {
					if content != before[path] && filepath.Base(path) != "meta.sum" {
						t.Errorf("%s has changed: %d bytes, %d before", path, len(content), len(before[path]))
					}
				}
				return
			}
			for range 2 {
				broker := embeddedtest.StartBroker(t, cfg)
				requireStore(t, inProcess(t, broker))
				broker.Stop()
			}
			if n := strings.Count(log.String(), test.logs); n != 1 {
				t.Errorf("the log has %q %d times, want once:\n%s", test.logs, n, &log)
			}
		})
	}
}

// contents returns the content of each file in the store.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(filepath.Join(dir, "jetstream"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var content []byte
			content, err = os.ReadFile(path)
			files[path] = string(content)
		}
		if errors.Is(err, fs.ErrNotExist) { // removed by the server
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A killed server leaves temporary files and incomplete directories of streams and
// consumers. The next start removes them, because they can have expired or erased
// messages, and a new consumer would inherit the position of an old one of its name.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newStore(t, dir)
	for _, name := range []string{
		"meta.inf.tmp", "meta.sum.tmp", "msgs/1.blk.tmp", "msgs/7.new", "obs/durable/o.dat.tmp",
		"obs/deleted/o.dat", "obs/created/meta.inf.tmp",
		"../CREATED/msgs/1.blk", "../CREATED/obs/left", "../CREATED/meta.inf.tmp",
	} {
		path := streamPath(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		content := "left"
		if strings.HasPrefix(name, "../CREATED/msgs") { // nothing was stored
			content = ""
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	broker := embeddedtest.StartBroker(t, embedded.Config{Dir: dir})
	js := inProcess(t, broker)
	requireStore(t, js)
	for path, content := range contents(t, dir) {
		if content == "left" {
			t.Errorf("%s is still there", path)
		}
	}
	if err := broker.MayCreate("CREATED"); err != nil {
		t.Errorf("a stream whose creation was interrupted cannot be created: %v", err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CREATED", Subjects: []string{"created"}}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"S", "CREATED"} {
		if err := broker.MayCreate(name); err == nil || !strings.Contains(err.Error(), filepath.Join("$G", "streams", name)) {
			t.Errorf("MayCreate allows the existing stream %s: %v", name, err)
		}
	}
}
