package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/ingest"
	"versive-ingress/publish/embedded/embeddedtest"
)

var drill = flag.Duration("drill", 150*time.Millisecond, "how long each phase of a rotation lasts")

// A barrage is senders that post one webhook after another, with a short pause, and
// count. What they share is changed under way.
type barrage struct {
	secret     atomic.Pointer[string] // signs
	answered   []atomic.Int64         // by sender
	complaints sync.Map               // by text
	stop       func()                 // returns when the last has its answer
}

func startBarrage(t testing.TB, senders int, secret string, post func(secret string) error) *barrage {
	b := &barrage{answered: make([]atomic.Int64, senders)}
	b.secret.Store(&secret)
	end := make(chan struct{})
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if err := post(*b.secret.Load()); err != nil {
					b.complaints.Store(err.Error(), true)
				}
				b.answered[i].Add(1)
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	b.stop = sync.OnceFunc(func() { close(end); wg.Wait() })
	t.Cleanup(b.stop)
	return b
}

// phase lets the senders post for the length of a phase, and until each has eight more
// answers, so that none of them waits for an answer from before the phase.
func (b *barrage) phase(t testing.TB) {
	t.Helper()
	time.Sleep(*drill)
	before := b.counts()
	embeddedtest.Await(t, "eight more answers to each sender", func() bool {
		for i, n := range b.counts() {
			if n < before[i]+8 {
				return false
			}
		}
		return true
	})
}

// counts returns how many answers each sender has.
func (b *barrage) counts() []int64 {
	counts := make([]int64, len(b.answered))
	for i := range counts {
		counts[i] = b.answered[i].Load()
	}
	return counts
}

// requireCalm checks that nothing went wrong since the start.
func (b *barrage) requireCalm(t testing.TB) {
	t.Helper()
	b.complaints.Range(func(text, _ any) bool { t.Error(text); return true })
}

// The rotation that docs/operations.md describes, under load: no authentic webhook is
// rejected, and the metric shows since when the old secret has not been used.
func TestRotationDrill(t *testing.T) {
	t.Parallel()
	first, second := config.NewSecret(), config.NewSecret()
	s := newSettings(t)
	s.Secrets = nil
	s.SecretsFile = writeFile(t, "secrets", first+"\n")
	sys := run(t, s)
	replace := func(text string) {
		overwrite(t, s.SecretsFile+"~", text)
		rename(t, s.SecretsFile+"~", s.SecretsFile)
	}
	b := startBarrage(t, 8, first, func(secret string) error {
		id := sender.NewID()
		response, err := sender.Client.Do(signed(sys.url, secret, id, interview(id)))
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
	last := func(secret string) string {
		lines := sys.metric("versive_ingress_secret_last_verified_timestamp_seconds")
		for line := range strings.Lines(lines) {
			if strings.Contains(line, ingest.Fingerprint(secret)) {
				return line
			}
		}
		return ""
	}

	b.phase(t)
	// 1. Both are configured, the new one first, before the sender has it.
	replace(second + "\n" + first + "\n")
	embeddedtest.Await(t, "the new secret is configured", func() bool { return strings.HasSuffix(last(second), " 0\n") })
	b.phase(t)
	if !strings.HasSuffix(last(second), " 0\n") {
		t.Errorf("the new secret verified before the sender had it: %s", last(second))
	}
	// 2. The sender has the new one.
	b.secret.Store(&second)
	embeddedtest.Await(t, "the new secret verifies", func() bool { return !strings.HasSuffix(last(second), " 0\n") })
	b.phase(t) // what was signed with the old one is answered by now
	silent, still := last(first), last(second)
	b.phase(t)
	if got := last(first); got != silent {
		t.Errorf("the old secret has not fallen silent: %s, then %s", silent, got)
	}
	if got := last(second); got == still {
		t.Errorf("the new secret has fallen silent: %s", got)
	}
	// 3. The old one goes.
	replace(second + "\n")
	embeddedtest.Await(t, "the old secret's series are gone", func() bool { return last(first) == "" })
	b.phase(t)
	b.stop()
	b.requireCalm(t)
	if got := sys.status(t, first); got != http.StatusUnauthorized {
		t.Errorf("the old secret is still good: %d", got)
	}
	for line := range strings.Lines(sys.metric("versive_ingress_requests_total")) {
		want := " 0\n"
		if strings.Contains(line, `reason="signature"}`) {
			want = " 1\n" // by status above
		}
		if strings.Contains(line, `outcome="unauthorized"`) && !strings.HasSuffix(line, want) {
			t.Errorf("refused under way: %s", line)
		}
	}
	t.Logf("%d webhooks by each sender", b.counts())
}

// The certificate is swapped under load: every handshake succeeds, and so does
// what is in progress. A pair that does not match, as between the writing of
// its two files, is not taken.
func TestCertificateDrill(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	var roots [2]*tls.Config
	var pairs [2][2]string // files of certificate and key
	for i := range pairs {
		cert, key, pool := writeCertificate(t)
		pairs[i] = [2]string{readText(t, cert), readText(t, key)}
		roots[i] = &tls.Config{RootCAs: pool}
	}
	s.TLSCert, s.TLSKey = writeFile(t, "cert.pem", pairs[0][0]), writeFile(t, "key.pem", pairs[0][1])
	sys := run(t, s)

	// A sender who trusts both certificates and shakes hands for each webhook.
	both := roots[0].RootCAs.Clone()
	both.AppendCertsFromPEM([]byte(pairs[1][0]))
	fresh := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: both}, DisableKeepAlives: true, ForceAttemptHTTP2: true,
	}}
	// And one who keeps his connection.
	kept := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: both}, ForceAttemptHTTP2: true}
	t.Cleanup(kept.CloseIdleConnections)
	post := func(c *http.Client) func(string) error {
		return func(secret string) error {
			response, err := c.Do(signed(sys.url, secret, sender.NewID(), sample))
			if err != nil {
				return err
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK || response.ProtoMajor != 2 {
				return errors.New(response.Proto + " " + response.Status)
			}
			return nil
		}
	}
	shaking := startBarrage(t, 4, s.Secrets[0], post(fresh))
	keeping := startBarrage(t, 2, s.Secrets[0], post(&http.Client{Transport: kept}))
	serves := func(i int) bool {
		conn, err := tls.Dial("tcp", s.Listen, roots[i])
		if err == nil {
			conn.Close()
		}
		return err == nil
	}

	for round := range 3 {
		now := 1 - round%2
		shaking.phase(t)
		overwrite(t, s.TLSCert, pairs[now][0])
		if round == 0 { // the key comes late
			embeddedtest.Await(t, "the complaint", func() bool {
				return strings.HasSuffix(sys.metric(reloaded), " 0\n") && !serves(now)
			})
		}
		overwrite(t, s.TLSKey, pairs[now][1])
		embeddedtest.Await(t, "the other certificate", func() bool { return serves(now) && !serves(1-now) })
	}
	shaking.phase(t)
	keeping.phase(t)
	shaking.stop()
	keeping.stop()
	shaking.requireCalm(t)
	keeping.requireCalm(t)
	if got := sys.metric(reloaded); !strings.HasSuffix(got, " 1\n") {
		t.Errorf("got %s", got)
	}
	t.Logf("%d handshakes by each sender", shaking.counts())
}

// An expired certificate does not replace a valid one; the metric has the expiry of
// the one that is served.
func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.TLSCert, s.TLSKey, _ = writeCertificate(t)
	sys := run(t, s)
	const expires = "versive_ingress_tls_certificate_not_after_timestamp_seconds"
	before := sys.metric(expires)
	cert, key, _ := writeCertificateUntil(t, time.Now().Add(-time.Hour))
	for from, to := range map[string]string{cert: s.TLSCert, key: s.TLSKey} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		overwrite(t, to, string(text))
	}
	embeddedtest.Await(t, "the complaint", func() bool { return strings.Contains(sys.log.String(), "has expired") })
	if got := sys.metric(expires); got != before || got == "" {
		t.Errorf("%q, then %q", before, got)
	}
}

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
