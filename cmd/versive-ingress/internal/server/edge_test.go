package server

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"

	"versive-ingress/publish/embedded/embeddedtest"
)

// talk sends raw bytes and returns all that comes back until the other end
// closes, or is done for a while.
func talk(t *testing.T, address, raw string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(embeddedtest.Timeout))
	back, err := io.ReadAll(conn)
	if err != nil && len(back) == 0 {
		t.Errorf("no answer to %.60q: %v", raw, err)
	}
	return string(back)
}

// raw returns a signed webhook as bytes, with some text in it replaced.
func (s *system) raw(id string, replace ...string) string {
	var b bytes.Buffer
	if err := s.request(s.settings.Secrets[0], id, sample).Write(&b); err != nil {
		panic(err) // a buffer takes all
	}
	return strings.NewReplacer(replace...).Replace(b.String())
}

var date = regexp.MustCompile(`(?m)^Date: .*$`)

// A 401 is the same to the byte, for every reason.
func TestUniform401(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	old := time.Now().Add(-time.Hour).Unix()
	header := func(name, value string) string {
		return regexp.MustCompile(`(?m)^`+name+`: .*\r$`).ReplaceAllString(sys.raw("msg_1"), name+": "+value+"\r")
	}
	first := ""
	for name, raw := range map[string]string{
		"signature":         header("Svix-Signature", "v1,AAAA"),
		"another's":         header("Svix-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
		"no version":        header("Svix-Signature", "x"),
		"too old":           header("Svix-Timestamp", fmt.Sprint(old)),
		"too new":           header("Svix-Timestamp", "9999999999"),
		"no number":         header("Svix-Timestamp", "now"),
		"another id":        header("Svix-Id", "msg_2"),
		"no id":             sys.raw("msg_1", "Svix-Id", "X-Id"),
		"no timestamp":      sys.raw("msg_1", "Svix-Timestamp", "X-Timestamp"),
		"no signature":      sys.raw("msg_1", "Svix-Signature", "X-Signature"),
		"half of each":      sys.raw("msg_1", "Svix-Id", "Webhook-Id"),
		"another body":      sys.raw("msg_1", "VERSIVE", "versive"),
		"another body type": sys.raw("msg_1", "Content-Length", "Content-Type: x/y\r\nContent-Length", "VERSIVE", "versive"),
	} {
		got := date.ReplaceAllString(talk(t, sys.settings.Listen, raw), "Date:")
		if !strings.HasPrefix(got, "HTTP/1.1 401 ") {
			t.Errorf("%s: %s", name, got)
		}
		if first == "" {
			first = got
		}
		if diff := cmp.Diff(first, got); diff != "" {
			t.Errorf("%s differs: %s", name, diff)
		}
	}
}

// No answer reveals the software of the server, or its version.
func TestNoBanner(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.TLSCert, s.TLSKey, _ = writeCertificate(t)
	secure := run(t, s)
	sys := run(t, newSettings(t))
	tells := regexp.MustCompile(`(?i)\b(server|via|x-powered-by):|\bgo(lang)?\b|net/http|nats|jetstream|panic|goroutine|` + regexp.QuoteMeta(sys.cfg.Version))
	at := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }
	for name, answer := range map[string]string{
		"stored":         talk(t, sys.settings.Listen, sys.raw("msg_1")),
		"forged":         talk(t, sys.settings.Listen, sys.raw("msg_1", "v1,", "v1,A")),
		"bad id":         talk(t, sys.settings.Listen, sys.raw("msg 1")),
		"nowhere":        talk(t, sys.settings.Listen, at("/")),
		"method":         talk(t, sys.settings.Listen, at(sys.settings.Path)),
		"too large":      talk(t, sys.settings.Listen, sys.raw("msg_1", "Content-Length: ", "Content-Length: 9999999")),
		"encoded":        talk(t, sys.settings.Listen, sys.raw("msg_1", "Content-Length", "Content-Encoding: gzip\r\nContent-Length")),
		"no HTTP":        talk(t, sys.settings.Listen, "hello\r\n\r\n"),
		"another HTTP":   talk(t, sys.settings.Listen, "GET / HTTP/3.0\r\n\r\n"),
		"large headers":  talk(t, sys.settings.Listen, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", maxHeader)+"\r\n\r\n"),
		"many headers":   talk(t, sys.settings.Listen, "GET / HTTP/1.1\r\n"+strings.Repeat("X: x\r\n", maxHeader/6)+"\r\n"),
		"HTTP for HTTPS": talk(t, secure.settings.Listen, at("/")),
		"probe":          talk(t, sys.settings.AdminListen, at("/livez")),
		"admin, nowhere": talk(t, sys.settings.AdminListen, at("/x")),
		"admin, method":  talk(t, sys.settings.AdminListen, strings.Replace(at("/metrics"), "GET", "POST", 1)),
	} {
		if !strings.HasPrefix(answer, "HTTP/1.") {
			t.Errorf("%s: %q", name, answer)
		}
		if found := tells.FindString(answer); found != "" {
			t.Errorf("%s tells %q: %s", name, found, answer)
		}
	}
}

// Whoever is slow, wherever, is cut off.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	s.TLSCert, s.TLSKey, _ = writeCertificate(t)
	secure := run(t, s)
	sys := run(t, newSettings(t))
	const (
		http2Begin = http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // settings, none
		http2Half  = "\x00\x00\x01\x01\x00\x00\x00\x00\x03\x82"                   // the begin of a header block
		http2Get   = "\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x01x"  // GET http://x/
		http2Ping  = "\x00\x00\x08\x06\x00\x00\x00\x00\x00--------"
	)
	var waiting sync.WaitGroup
	for name, c := range map[string]struct{ address, begin, drip string }{
		"dripping headers":         {sys.settings.Listen, "POST /webhooks/versive HTTP/1.1\r\nHost: x\r\nSvix-Id: m", "x"},
		"dripping headers, admin":  {sys.settings.AdminListen, "GET /livez HTTP/1.1\r\nX: x", "x"},
		"dripping bodies":          {sys.settings.Listen, "POST /webhooks/versive HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", "x"},
		"dripping bodies, admin":   {sys.settings.AdminListen, "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", "x"},
		"silent":                   {sys.settings.Listen, "", ""},
		"silent, admin":            {sys.settings.AdminListen, "", ""},
		"half a line":              {sys.settings.Listen, "POST /webh", ""},
		"no end of headers":        {sys.settings.Listen, "GET / HTTP/1.1\r\nHost: x\r\n", ""},
		"the preface of HTTP/2":    {sys.settings.Listen, "PRI * HTTP/2.0\r\n\r\nSM", ""},
		"HTTP/2 without settings":  {sys.settings.Listen, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""},
		"no handshake":             {secure.settings.Listen, "", ""},
		"half a handshake":         {secure.settings.Listen, "\x16\x03\x01\x02\x00\x01", ""},
		"a body, admin":            {sys.settings.AdminListen, "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", ""},
		"a chunked body, admin":    {sys.settings.AdminListen, "POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n", ""},
		"headers after an answer":  {sys.settings.Listen, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX", ""},
		"unsigned, never the body": {sys.settings.Listen, "POST /webhooks/versive HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", ""},
		"HTTP/2, silent":           {sys.settings.Listen, http2Begin, ""},
		"HTTP/2, silent, admin":    {sys.settings.AdminListen, http2Begin, ""},
		"HTTP/2, silent, TLS":      {secure.settings.Listen, http2Begin, ""},
		"HTTP/2, pings":            {sys.settings.Listen, http2Begin, http2Ping},
		"HTTP/2, half a frame":     {sys.settings.Listen, http2Begin + "\x00\x40\x00", ""},
		"HTTP/2, half the headers": {sys.settings.Listen, http2Begin + http2Half, ""},
		"HTTP/2, dripping headers": {sys.settings.Listen, http2Begin + http2Half, "\x00\x00\x00\x09\x00\x00\x00\x00\x03"},
		"HTTP/2, after an answer":  {sys.settings.Listen, http2Begin + http2Get + http2Half, ""},
		"HTTP/2, more of a frame":  {sys.settings.Listen, http2Begin + http2Get + "\x00\x40\x00\x00", "x"},
	} {
		waiting.Go(func() { // concurrently, because each takes its time
			conn, err := net.Dial("tcp", c.address)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if c.address == secure.settings.Listen && strings.HasPrefix(name, "HTTP/2") {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			}
			started := time.Now()
			_ = conn.SetDeadline(started.Add(4 * headerTimeout))
			if _, err := io.WriteString(conn, c.begin); err != nil {
				t.Error(err)
			}
			if c.drip != "" {
				waiting.Go(func() { // until the other end has had enough
					for tick := time.Tick(headerTimeout / 25); ; <-tick {
						if _, err := io.WriteString(conn, c.drip); err != nil {
							return
						}
					}
				})
			}
			back, err := io.ReadAll(conn)
			if took := time.Since(started); took > 3*headerTimeout { // answerTimeout is more, and idleTimeout
				t.Errorf("%s: not cut off in time: after %v (%v), only told %q", name, took, err, back)
			}
			if strings.Contains(string(back), "HTTP/1.1 200") && !strings.Contains(c.begin, "/livez") {
				t.Errorf("%s: answered %s", name, back)
			}
		})
	}
	waiting.Wait()
}

// Requests in one go are answered in their order, each for itself.
func TestPipelining(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	var all strings.Builder
	var want []int
	var ids []string
	for i := range 20 {
		ids = append(ids, fmt.Sprintf("msg_%d", i))
		all.WriteString(sys.raw(ids[i]))
		all.WriteString(sys.raw("msg_forged", "v1,", "v1,A"))
		all.WriteString("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
		want = append(want, http.StatusOK, http.StatusUnauthorized, http.StatusNotFound)
	}
	from := bufio.NewReader(strings.NewReader(talk(t, sys.settings.Listen, all.String())))
	var got []int
	for {
		response, err := http.ReadResponse(from, nil)
		if err != nil {
			break
		}
		_, _ = io.Copy(io.Discard, response.Body)
		got = append(got, response.StatusCode)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	sys.requireStored(t, ids...)
}

// TLS below 1.2 is not spoken; 1.2 and 1.3 are, with HTTP/2.
func TestTLSVersions(t *testing.T) {
	t.Parallel()
	s := newSettings(t)
	var roots *x509.CertPool
	s.TLSCert, s.TLSKey, roots = writeCertificate(t)
	sys := run(t, s)
	for version, want := range map[uint16]bool{
		tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true,
	} {
		conn, err := tls.Dial("tcp", sys.settings.Listen, &tls.Config{RootCAs: roots, MinVersion: version, MaxVersion: version, NextProtos: []string{"h2"}})
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err != nil {
			continue
		}
		state := conn.ConnectionState()
		conn.Close()
		if state.NegotiatedProtocol != "h2" {
			t.Errorf("%s: %q is spoken", tls.VersionName(version), state.NegotiatedProtocol)
		}
		for _, insecure := range tls.InsecureCipherSuites() {
			if state.CipherSuite == insecure.ID {
				t.Errorf("%s: %s", tls.VersionName(version), insecure.Name)
			}
		}
	}
}
