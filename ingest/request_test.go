package ingest_test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"versive-ingress/publish/embedded/embeddedtest"
)

const webhookPath = "/webhooks/versive"

// now is the time at which tests sign and the fixed clock of their handlers, so
// that a test can be exactly at the tolerance.
var now = time.Unix(1_790_000_000, 0)

var (
	secret      = makeSecret("the-signing-secret-of-tests")
	otherSecret = makeSecret("another-secret-just-as-long")
)

func makeSecret(key string) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(key))
}

// sign returns the value of the sender's signature header.
func sign(t testing.TB, secret, id string, at time.Time, body string) string {
	t.Helper()
	webhook, err := svix.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := webhook.Sign(id, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// A request is the text of an HTTP request, so that a test can send what
// net/http's client would not.
type request struct {
	line   string   // the request line
	header []string // lines, in order
	body   string   // with the framing of chunks, if any
	cut    bool     // the client closes its side after the body

	id, signed string // the id and the body that the sender signed
}

// signed returns a request of the sender.
func signed(t testing.TB, id, body string) request {
	t.Helper()
	return signedBy(t, "Svix", secret, id, now, body)
}

// signedBy returns a signed request whose signing headers have the prefix "Svix"
// or "Webhook".
func signedBy(t testing.TB, prefix, secret, id string, at time.Time, body string) request {
	t.Helper()
	return request{
		line: "POST " + webhookPath + " HTTP/1.1",
		header: []string{
			"Host: ingress.test",
			"Content-Type: application/json",
			"Content-Length: " + strconv.Itoa(len(body)),
			prefix + "-Id: " + id,
			prefix + "-Timestamp: " + strconv.FormatInt(at.Unix(), 10),
			prefix + "-Signature: " + sign(t, secret, id, at, body),
		},
		body: body, id: id, signed: body,
	}
}

// without returns r without the header called name.
func (r request) without(name string) request {
	var kept []string
	for _, line := range r.header {
		if !strings.HasPrefix(line, name+":") {
			kept = append(kept, line)
		}
	}
	r.header = kept
	return r
}

// with returns r with one header called name.
func (r request) with(name, value string) request {
	return r.without(name).plus(name + ": " + value)
}

// plus returns r with more lines in its header.
func (r request) plus(lines ...string) request {
	r.header = append(r.header[:len(r.header):len(r.header)], lines...)
	return r
}

// to returns r with another request line.
func (r request) to(line string) request { r.line = line; return r }

// sending returns r with other bytes after the header.
func (r request) sending(body string) request { r.body = body; return r }

// chunked returns r with its body in two chunks.
func (r request) chunked() request {
	r.body = chunk(r.body[:1]) + chunk(r.body[1:]) + "0\r\n\r\n"
	return r.without("Content-Length").plus("Transfer-Encoding: chunked")
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

// cutOff returns r from a client that closes its side after the body.
func (r request) cutOff() request { r.cut = true; return r }

func (r request) head() string {
	return r.line + "\r\n" + strings.Join(r.header, "\r\n") + "\r\n\r\n"
}

// An answer is an HTTP response. Status 0 means that the connection was closed.
type answer struct {
	status int
	header http.Header
	body   string
}

// exchange sends r over a connection of its own and reads the answer.
func exchange(t testing.TB, address string, r request) answer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(embeddedtest.Timeout)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// A server that rejects a request need not read all of it.
		if _, err := io.WriteString(conn, r.head()+r.body); err == nil && r.cut {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	a := readAnswer(t, bufio.NewReader(conn), r)
	conn.Close()
	embeddedtest.Receive(t, "the request is written", sent)
	return a
}

// readAnswer reads the answer to r from a connection.
func readAnswer(t testing.TB, from *bufio.Reader, r request) answer {
	t.Helper()
	method, _, _ := strings.Cut(r.line, " ")
	response, err := http.ReadResponse(from, &http.Request{Method: method})
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatalf("no answer within %v", embeddedtest.Timeout)
	}
	if err != nil {
		return answer{}
	}
	defer response.Body.Close()
	// Ignore the error: net/http may close a connection with unread bytes after a
	// malformed request, and the kernel resets it then.
	body, _ := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body)}
}
