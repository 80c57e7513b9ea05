package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/ingest"
	"versive-ingress/publish/embedded/embeddedtest"

	"github.com/prometheus/client_golang/prometheus"
)

const reloaded = "versive_ingress_config_last_reload_successful"

// status posts a webhook signed with secret and returns the answer's status.
func (s *system) status(secret string) int {
	status, _ := do(s.request(secret, sender.NewID(), sample))
	return status
}

// requireSecrets waits until the given secrets, by position, are those that
// verify, and checks that others do not.
func (s *system) requireSecrets(t testing.TB, accepted []string, refused ...string) {
	t.Helper()
	var want []string
	for i, secret := range accepted {
		want = append(want, fmt.Sprintf(`{fingerprint="%s",position="%d"}`, ingest.Fingerprint(secret), i+1))
	}
	embeddedtest.Await(t, fmt.Sprintf("the secrets %v", want), func() bool {
		lines := s.metric("versive_ingress_secret_verified_total")
		for _, series := range want {
			if !strings.Contains(lines, series) {
				return false
			}
		}
		return strings.Count(lines, "\n") == len(want)
	})
	for _, secret := range accepted {
		if got := s.status(secret); got != http.StatusOK {
			t.Errorf("a secret of those in use: %d", got)
		}
	}
	for _, secret := range refused {
		if got := s.status(secret); got != http.StatusUnauthorized {
			t.Errorf("a secret that is not in use: %d", got)
		}
	}
}

// Every way in which a file changes is noticed: written anew, replaced as
// editors do, and swapped as Kubernetes does, by one link in its path.
func TestSecretsFileChanges(t *testing.T) {
	t.Parallel()
	first, second := config.NewSecret(), config.NewSecret()
	for name, put := range map[string]func(t *testing.T, dir string) (file string, change func(text string)){
		"written": func(t *testing.T, dir string) (string, func(string)) {
			file := filepath.Join(dir, "secrets")
			return file, func(text string) { overwrite(t, file, text) }
		},
		"replaced": func(t *testing.T, dir string) (string, func(string)) {
			file := filepath.Join(dir, "secrets")
			return file, func(text string) {
				overwrite(t, file+"~", text)
				rename(t, file+"~", file)
			}
		},
		"by another link": func(t *testing.T, dir string) (string, func(string)) {
			file, elsewhere := filepath.Join(dir, "secrets"), filepath.Join(t.TempDir(), "secrets")
			overwrite(t, elsewhere, "")
			if err := os.Link(elsewhere, file); err != nil {
				t.Fatal(err)
			}
			return file, func(text string) { overwrite(t, elsewhere, text) }
		},
		"a link's target": func(t *testing.T, dir string) (string, func(string)) {
			target, file := filepath.Join(t.TempDir(), "target"), filepath.Join(dir, "secrets")
			if err := os.Symlink(target, file); err != nil {
				t.Fatal(err)
			}
			return file, func(text string) { overwrite(t, target, text) }
		},
		"Kubernetes": func(t *testing.T, dir string) (string, func(string)) {
			link := func(to, at string) {
				if err := os.Symlink(to, at); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, "secrets")
			link("..data/secrets", file)
			data, revision := filepath.Join(dir, "..data"), ""
			return file, func(text string) {
				old := revision
				var err error
				if revision, err = os.MkdirTemp(dir, "..revision"); err != nil {
					t.Fatal(err)
				}
				overwrite(t, filepath.Join(revision, "secrets"), text)
				link(filepath.Base(revision), data+"_tmp")
				rename(t, data+"_tmp", data)
				if old != "" {
					if err := os.RemoveAll(old); err != nil {
						t.Fatal(err)
					}
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettings(t)
			s.Secrets = nil
			var change func(string)
			s.SecretsFile, change = put(t, t.TempDir())
			change(first)
			sys := run(t, s)
			sys.requireSecrets(t, []string{first}, second)
			change("# the new one first\n" + second + "\n" + first + "\n")
			sys.requireSecrets(t, []string{second, first})
			change(second + "\n")
			sys.requireSecrets(t, []string{second}, first)
			change(first + "\n")
			sys.requireSecrets(t, []string{first}, second)
		})
	}
}

// A file that cannot be used changes nothing, and is loud: in the log, which
// does not quote it, and in a metric.
func TestBrokenSecretsFile(t *testing.T) {
	t.Parallel()
	variable, first, second := config.NewSecret(), config.NewSecret(), config.NewSecret()
	s := newSettings(t)
	s.Secrets = []string{variable}
	s.SecretsFile = filepath.Join(t.TempDir(), "secrets")
	overwrite(t, s.SecretsFile, first)
	sys := run(t, s)
	if got := sys.metric(reloaded); got != reloaded+`{source="secrets"} 1`+"\n" {
		t.Errorf("after the start: %q", got)
	}
	complaints := func() int { return strings.Count(sys.log.String(), `"level":"ERROR","msg":"files cannot be used`) }
	for name, spoil := range map[string]func(){
		"no secret": func() { overwrite(t, s.SecretsFile, second+"\nwhsec_hunter2!\n") },
		"too short": func() { overwrite(t, s.SecretsFile, "whsec_c2hvcnQ=\n") },
		"gone":      func() { rename(t, s.SecretsFile, s.SecretsFile+".old") },
		"too large": func() { overwrite(t, s.SecretsFile, second+"\n#"+strings.Repeat(" ", 16<<20)) },
		"a pipe": func() {
			if err := os.Remove(s.SecretsFile); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(s.SecretsFile, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		before := complaints()
		spoil()
		embeddedtest.Await(t, name+" is in the log", func() bool { return complaints() > before })
		if got := sys.metric(reloaded); got != reloaded+`{source="secrets"} 0`+"\n" {
			t.Errorf("%s: %q", name, got)
		}
		sys.requireSecrets(t, []string{variable, first}, second)

		overwrite(t, s.SecretsFile+"~", first+"\n# after: "+name)
		rename(t, s.SecretsFile+"~", s.SecretsFile)
		embeddedtest.Await(t, name+" is repaired", func() bool {
			return strings.HasSuffix(sys.metric(reloaded), " 1\n")
		})
	}
	for _, secret := range []string{"hunter2", "c2hvcnQ", strings.TrimPrefix(first, "whsec_"), strings.TrimPrefix(second, "whsec_")} {
		if strings.Contains(sys.log.String(), secret) {
			t.Error("the log has a secret")
		}
	}
}

// Files are loaded once for each change, and not while they are being written.
func TestPollWaitsForTheLastFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	loads := 0
	s := source{
		load: func() error { loads++; return nil }, files: []string{cert, key}, read: config.ReadFile, log: slog.New(slog.DiscardHandler),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{}), successAt: prometheus.NewGauge(prometheus.GaugeOpts{}),
	}
	s.reload()
	for i, step := range []struct {
		change func()
		want   int // loads
	}{
		{func() {}, 1},
		{func() { overwrite(t, cert, "new") }, 1},
		{func() { overwrite(t, key, "new") }, 1},
		{func() {}, 2},
		{func() {}, 2},
		{func() { overwrite(t, key, "newer") }, 2},
		{func() { overwrite(t, key, "new") }, 2}, // as before
		{func() {}, 2},
	} {
		step.change()
		if s.poll(); loads != step.want {
			t.Errorf("step %d: %d loads, want %d", i, loads, step.want)
		}
	}
}
