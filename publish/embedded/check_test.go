package embedded_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
)

// nobody is the uid of a user other than root.
const nobody = 65534

// TestMain makes this binary a program that starts and stops a broker on a
// directory. A test that runs as root runs it as another user.
func TestMain(m *testing.M) {
	dir, ok := os.LookupEnv("START_BROKER")
	if !ok {
		os.Exit(embeddedtest.Run(m, http.DefaultClient.CloseIdleConnections))
	}
	broker, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	fmt.Print(broker.Messages())
	broker.Stop()
}

// startAsUser starts and stops a broker on a directory as a user other than root.
// It returns the number of messages.
func startAsUser(t *testing.T, dir string) (messages string, err error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(cmd.Environ(), "START_BROKER="+dir)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return "", errors.New(string(out))
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return string(out), nil
}

// newStore fills a data directory with a stream S of 100 messages, of which a
// durable consumer has acknowledged 10. It stops the broker, which may have a
// configuration file. On a slow disk, the server writes the state of the consumer even
// after that, so the directory gets its name only then.
func newStore(t *testing.T, dir string, configFile ...string) {
	t.Helper()
	cfg := embedded.Config{Dir: dir + ".new", Listen: "127.0.0.1:0"}
	if len(configFile) > 0 {
		cfg.Listen, cfg.ConfigFile = "", configFile[0]
	}
	broker := embeddedtest.StartBroker(t, cfg)
	js := inProcess(t, broker)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxMsgSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "durable", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := js.Publish(t.Context(), fmt.Sprint("s.", i), []byte("content")); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		m, err := consumer.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	broker.Stop()
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Rename(cfg.Dir, dir); err != nil {
		t.Fatal(err)
	}
}

// requireStore checks that a broker has the stream and consumer of newStore.
func requireStore(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 100 {
		t.Errorf("the stream has %d messages, want 100", n)
	}
	if size := stream.CachedInfo().Config.MaxMsgSize; size != 1<<20 {
		t.Errorf("the stream's limit is %d, want %d", size, 1<<20)
	}
	consumer, err := stream.Consumer(t.Context(), "durable")
	if err != nil {
		t.Fatal(err)
	}
	if at := consumer.CachedInfo().AckFloor.Stream; at != 10 {
		t.Errorf("the consumer is at %d, want 10", at)
	}
}

// snapshot returns the names, modes, owners and contents of a directory's files.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() && info.Mode()&0o400 != 0 {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		owner := info.Sys().(*syscall.Stat_t)
		fmt.Fprintln(&all, path, info.Mode(), owner.Uid, info.Size(), sha256.Sum256(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// streamPath returns the path of a file of newStore's stream.
func streamPath(dir string, elements ...string) string {
	return filepath.Join(append([]string{dir, "jetstream", "$G", "streams", "S"}, elements...)...)
}

// The broker does not start on a store that this process cannot fully read and
// write, and does not change it. The error names the file and a command that
// fixes the problem.
func TestUnusableFile(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		file []string // below the stream's directory
		uid  int      // owner of the file, if root runs the test
		mode os.FileMode
		want string // the command
	}{
		{"a block without permissions", []string{"msgs", "1.blk"}, nobody, 0, "chmod -R u+rwX"},
		{"a block of another user", []string{"msgs", "1.blk"}, 0, 0o600, "chown -R"},
		{"a block that is read-only", []string{"msgs", "1.blk"}, nobody, 0o400, "chmod -R u+rwX"},
		{"a directory of another user", []string{"msgs"}, 0, 0o700, "chown -R"},
		{"a store of another user", []string{"..", "..", ".."}, 0, 0o700, "chown -R"},
		{"a consumer of another user", []string{"obs", "durable", "o.dat"}, 0, 0o600, "chown -R"},
		{"a configuration without permissions", []string{"meta.inf"}, nobody, 0, "chmod -R u+rwX"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			dir := filepath.Join(top, "data $1's")
			newStore(t, dir)
			if err := os.Remove(streamPath(dir, "msgs", "index.db")); err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 {
				open(t, top)
				shell(t, fmt.Sprintf(`chown -R %d:%d "$0"`, nobody, nobody), dir)
			} else if test.uid == 0 {
				t.Skip("NOT CHECKED: giving a file to another user needs root")
			}
			file := streamPath(dir, test.file...)
			if err := os.Chmod(file, test.mode); err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 {
				if err := os.Lchown(file, test.uid, test.uid); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, filepath.Join(dir, "jetstream"))
			n, err := startAsUser(t, dir)
			if err == nil {
				t.Fatalf("the broker has started, with %s messages", n)
			}
			for _, want := range []string{file, test.want, fmt.Sprintf("belongs to uid %d", test.uid), "permission denied"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want %q in the error: %v", want, err)
				}
			}
			if after := snapshot(t, filepath.Join(dir, "jetstream")); after != before {
				t.Errorf("the store has changed:\n%s\nwant\n%s", after, before)
			}
			obey(t, err, test.want)
			if n, err := startAsUser(t, dir); n != "100" {
				t.Errorf("after the command: %s messages, want 100; %v", n, err)
			}
		})
	}
}

// If the data directory was restored by another user, the command in the error fixes
// all of it, including the files outside the store.
func TestUnusableDir(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT CHECKED: giving a file to another user needs root")
	}
	for _, mode := range []os.FileMode{0o700, 0o755, 0o777} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			dir := filepath.Join(top, "data")
			newStore(t, dir)
			open(t, top)
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
			_, err := startAsUser(t, dir)
			if err == nil {
				t.Fatal("the broker has started")
			}
			obey(t, err, "chown -R")
			if n, err := startAsUser(t, dir); n != "100" {
				t.Errorf("after the command: %s messages, want 100; %v", n, err)
			}
		})
	}
}

// obey runs the command in an error. The command must begin with the given words.
func obey(t *testing.T, err error, words string) {
	t.Helper()
	_, command, found := strings.Cut(err.Error(), words)
	if !found {
		t.Fatalf("want %q in the error: %v", words, err)
	}
	command, _, _ = strings.Cut(words+command, "; files with this problem")
	shell(t, command) // as root, which needs no sudo
}

// Unreadable directories that do not belong to the store do not keep the broker
// from starting.
func TestUnrelatedDirectories(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	newStore(t, top)
	for _, name := range []string{"lost+found", "other", filepath.Join("jetstream", "lost+found")} {
		if err := os.Mkdir(filepath.Join(top, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		open(t, top)
		shell(t, fmt.Sprintf(`chown %d "$0" "$0/lock" && chown -R %d "$0/jetstream" && chown 0 "$0/jetstream/lost+found"`, nobody, nobody), top)
	}
	if n, err := startAsUser(t, top); n != "100" {
		t.Errorf("%s messages, want 100; %v", n, err)
	}
}

// open gives every user access to a temporary directory of a test.
func open(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// shell runs a command with the arguments $0, $1 and so on.
func shell(t *testing.T, command string, args ...string) {
	t.Helper()
	if out, err := exec.Command("sh", append([]string{"-c", command}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// startFails checks that a start fails, with all of want in the error.
func startFails(t *testing.T, cfg embedded.Config, want ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), embeddedtest.Timeout)
	defer cancel()
	broker, err := embedded.Start(ctx, cfg)
	if err == nil {
		defer broker.Stop()
		t.Fatalf("the broker has started, with %d messages", broker.Messages())
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("want %q in the error: %v", w, err)
		}
	}
	return err
}
