package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/ingest"
)

// metric returns the lines of /metrics that begin with a name.
func (s *system) metric(name string) string { return metric(s.settings, name) }

func metric(s config.Settings, name string) string {
	_, text := get("http://" + s.AdminListen + "/metrics")
	var lines strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+" ") || strings.HasPrefix(line, name+"{") {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

const reloaded = "versive_ingress_config_last_reload_successful"

// status posts a webhook signed with secret and returns the answer's status.
func (s *system) status(t testing.TB, secret string) int {
	t.Helper()
	response, err := sender.Client.Do(signed(s.url, secret, sender.NewID(), sample))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// requireSecrets waits until the given secrets, by position, are those that
// verify, and checks that others do not.
func (s *system) requireSecrets(t testing.TB, accepted []string, refused ...string) {
	t.Helper()
	var want []string
	for i, secret := range accepted {
		want = append(want, fmt.Sprintf(`{fingerprint="%s",position="%d"}`, ingest.Fingerprint(secret), i+1))
	}
	eventually(t, fmt.Sprintf("the secrets %v", want), func() bool {
		lines := s.metric("versive_ingress_secret_verified_total")
		for _, series := range want {
			if !strings.Contains(lines, series) {
				return false
			}
		}
		return strings.Count(lines, "\n") == len(want)
	})
	for _, secret := range accepted {
		if got := s.status(t, secret); got != http.StatusOK {
			t.Errorf("a secret of those in use: %d", got)
		}
	}
	for _, secret := range refused {
		if got := s.status(t, secret); got != http.StatusUnauthorized {
			t.Errorf("a secret that is not in use: %d", got)
		}
	}
}

func overwrite(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
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
	s.SecretsFile = writeFile(t, "secrets", first)
	sys := run(t, s)
	if got := sys.metric(reloaded); got != reloaded+`{source="secrets"} 1`+"\n" {
		t.Errorf("after the start: %q", got)
	}
	complaints := func() int { return strings.Count(sys.log.String(), `"level":"ERROR","msg":"files cannot be used`) }
	for name, spoil := range map[string]func(){
		"no secret": func() { overwrite(t, s.SecretsFile, second+"\nwhsec_hunter2!\n") },
		"too short": func() { overwrite(t, s.SecretsFile, "whsec_c2hvcnQ=\n") },
		"gone":      func() { rename(t, s.SecretsFile, s.SecretsFile+".old") },
	} {
		before := complaints()
		spoil()
		eventually(t, name+" is in the log", func() bool { return complaints() > before })
		if got := sys.metric(reloaded); got != reloaded+`{source="secrets"} 0`+"\n" {
			t.Errorf("%s: %q", name, got)
		}
		sys.requireSecrets(t, []string{variable, first}, second)

		overwrite(t, s.SecretsFile, first+"\n# after: "+name)
		eventually(t, name+" is mended", func() bool {
			return strings.HasSuffix(sys.metric(reloaded), " 1\n")
		})
	}
	for _, secret := range []string{"hunter2", "c2hvcnQ", strings.TrimPrefix(first, "whsec_"), strings.TrimPrefix(second, "whsec_")} {
		if strings.Contains(sys.log.String(), secret) {
			t.Error("the log has a secret")
		}
	}
}

// What is not noticed, on a network's file system say, is read on SIGHUP; and
// with nothing to read SIGHUP does no harm.
func TestHangup(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	first, second := config.NewSecret(), config.NewSecret()
	s.SecretsFile = writeFile(t, "secrets", first)
	elsewhere := filepath.Join(t.TempDir(), "secrets")
	if err := os.Link(s.SecretsFile, elsewhere); err != nil {
		t.Fatal(err)
	}
	cmd, log := launch(t, "versive-ingress", s)
	awaitReady(t, s)
	sys := &system{&ingress{settings: s, url: "http://" + s.Listen + s.Path}, log}
	sys.requireSecrets(t, []string{s.Secrets[0], first}, second)
	overwrite(t, elsewhere, second) // the same file, in a directory that is not watched
	hangUp := func() {
		t.Helper()
		eventually(t, "SIGHUP is in the log", func() bool { // that comes too early is ignored
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			return strings.Contains(log.String(), "SIGHUP")
		})
	}
	hangUp()
	sys.requireSecrets(t, []string{s.Secrets[0], second}, first)

	s = newSettings(t)
	cmd, log = launch(t, "versive-ingress", s)
	awaitReady(t, s)
	hangUp()
	if status := readyz(s); status != http.StatusOK {
		t.Errorf("after SIGHUP: %d", status)
	}
}
