package ingest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"versive-ingress/ingest"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
)

// dial opens a connection with a deadline for all reads and writes.
func dial(t *testing.T, address string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(embeddedtest.Timeout)); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func write(t *testing.T, to io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(to, s); err != nil {
		t.Fatal(err)
	}
}

// A body that does not arrive times out, both when the handler reads it and when
// net/http reads the rest of a rejected request before it answers.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	r := newHarness(t, fake{}) // panics when it is called
	draining := newHarness(t, fake{})
	draining.handler.Drain()
	starting := serve(t, http.HandlerFunc(ingest.Unavailable), 16<<10)

	good := signed(t, "msg_1", event(""))
	chunked := good.chunked()
	rows := []struct {
		name    string
		address string
		request request
		status  int
		from    *bufio.Reader
	}{
		{name: "no body", address: r.address, request: good.sending(""), status: 400},
		{name: "half a body", address: r.address, request: good.sending(good.body[:10]), status: 400},
		{name: "no chunk", address: r.address, request: chunked.sending(""), status: 400},
		{name: "half a chunk", address: r.address, request: chunked.sending(chunked.body[:10]), status: 400},
		{name: "no last chunk", address: r.address, request: chunked.sending(strings.TrimSuffix(chunked.body, "0\r\n\r\n")), status: 400},
		{name: "unsigned", address: r.address, request: good.without("Svix-Signature").sending("{"), status: 401},
		{name: "unsigned, chunked", address: r.address, request: chunked.without("Svix-Signature").sending("5\r\n{"), status: 401},
		{name: "stale", address: r.address, request: good.with("Svix-Timestamp", "1").sending("{"), status: 401},
		{name: "another path", address: r.address, request: good.to("POST / HTTP/1.1").sending("{"), status: 404},
		{name: "another method", address: r.address, request: good.to("PUT " + webhookPath + " HTTP/1.1").sending("{"), status: 405},
		{name: "encoded", address: r.address, request: good.plus("Content-Encoding: gzip").sending("{"), status: 415},
		{name: "draining", address: draining.address, request: good.sending("{"), status: 503},
		{name: "starting", address: starting, request: good.sending("{"), status: 503},
	}
	started := time.Now()
	for i := range rows {
		var conn net.Conn
		conn, rows[i].from = dial(t, rows[i].address)
		write(t, conn, rows[i].request.head()+rows[i].request.body)
	}
	dripping, fromDripping := dial(t, r.address)
	write(t, dripping, good.head())
	drip(t, dripping, good.body[:len(good.body)-1])

	for _, row := range rows {
		if a := readAnswer(t, row.from, row.request); a.status != row.status {
			t.Errorf("%s: got status %d, want %d", row.name, a.status, row.status)
		}
	}
	// The deadline is for the whole body, not for each read.
	if a := readAnswer(t, fromDripping, good); a.status != 400 {
		t.Errorf("dripping: got status %d, want 400", a.status)
	}
	if took := time.Since(started); took > ingest.BodyTimeout+8*time.Second { // the dripping body would take twice as long
		t.Errorf("took %v, want at most %v and a little", took, ingest.BodyTimeout)
	}
	embeddedtest.Await(t, "the budget is empty", func() bool { return r.inflight(t) == 0 })
}

// drip writes s byte by byte, 50 bytes per BodyTimeout, until the test ends.
func drip(t *testing.T, conn net.Conn, s string) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(ingest.BodyTimeout / 50)
		defer tick.Stop()
		for i := range len(s) {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = conn.Write([]byte{s[i]})
			}
		}
	})
	t.Cleanup(func() { close(stop); wg.Wait() })
}

// The body's deadline does not apply to storing, so a request that is stored
// slowly is not canceled.
func TestSlowPublish(t *testing.T) {
	t.Parallel()
	r := newHarness(t, fake{func(ctx context.Context, _ schema.Message) (schema.Receipt, error) {
		select {
		case <-ctx.Done():
			return schema.Receipt{}, errors.New("the request was canceled")
		case <-time.After(ingest.BodyTimeout + time.Second):
			return schema.Receipt{Stream: "VERSIVE", Sequence: 1}, nil
		}
	}})
	requests := []request{
		signed(t, "msg_1", event("")),
		signed(t, "msg_2", event("")).chunked(),
		signed(t, "msg_3", ""), // net/http watches the connection from the start
	}
	var readers []*bufio.Reader
	for _, request := range requests {
		conn, from := dial(t, r.address)
		write(t, conn, request.head()+request.body)
		readers = append(readers, from)
	}
	for i, request := range requests {
		if a := readAnswer(t, readers[i], request); a.status/100 != 2 {
			t.Errorf("%s: got %d %s", request.id, a.status, a.body)
		}
	}
}

// A connection serves accepted and rejected requests alternately.
func TestOneConnection(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	conn, from := dial(t, r.address)
	for i := range 3 {
		for _, row := range []row{
			{"", signed(t, "msg_"+itoa(i), event("")), "200"},
			{"", signed(t, "msg_forged", event("")).without("Svix-Signature"), "401"},
			{"", signed(t, "msg_quarantined_"+itoa(i), "{}").chunked(), "202"},
			{"", signed(t, "msg_forged", event("")).chunked().with("Svix-Id", "msg_other"), "401"},
			{"", signed(t, "msg_encoded", event("")).plus("Content-Encoding: br"), "415"},
			{"", signed(t, "msg_lost", event("")).to("POST / HTTP/1.1"), "404"},
		} {
			write(t, conn, row.request.head()+row.request.body)
			if a := readAnswer(t, from, row.request); itoa(a.status) != row.want {
				t.Fatalf("round %d: got %d %s, want %s", i, a.status, a.body, row.want)
			}
		}
	}
	if got, want := s.state(t), (state{3, 3, 3, 3}); got != want {
		t.Errorf("the streams hold %+v, want %+v", got, want)
	}
}

// A request with Expect: 100-continue is rejected before its body is sent.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)
	asking := signed(t, "msg_1", event("")).plus("Expect: 100-continue")
	for _, row := range []row{
		{"", asking.without("Svix-Id"), "401"},
		{"", asking.with("Svix-Timestamp", "1"), "401"},
		{"", asking.with("Content-Length", itoa(maxBody+1)), "413"},
		{"", asking.plus("Content-Encoding: gzip"), "415"},
		{"", asking.to("POST / HTTP/1.1"), "404"},
	} {
		conn, from := dial(t, r.address)
		write(t, conn, row.request.head())
		if a := readAnswer(t, from, row.request); itoa(a.status) != row.want {
			t.Errorf("got %d, want %s", a.status, row.want)
		}
	}

	conn, from := dial(t, r.address)
	write(t, conn, asking.head())
	if line, err := from.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := from.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	write(t, conn, asking.body)
	if a := readAnswer(t, from, asking); a.status != 200 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if got, want := s.state(t), (state{1, 1, 0, 0}); got != want {
		t.Errorf("the streams hold %+v, want %+v", got, want)
	}
}

// The HTTP contract also holds over HTTP/2, with and without TLS.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newHarness(t, s)

	plain := new(http.Protocols)
	plain.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: plain}
	t.Cleanup(transport.CloseIdleConnections)
	secure := httptest.NewUnstartedServer(r.handler)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)

	for _, server := range []struct {
		name, url string
		client    *http.Client
	}{
		{"cleartext", "http://" + r.address, &http.Client{Transport: transport}},
		{"tls", secure.URL, secure.Client()},
	} {
		t.Run(server.name, func(t *testing.T) {
			post := func(r request, body io.Reader) (answer, error) {
				t.Helper()
				method, rest, _ := strings.Cut(r.line, " ")
				path, _, _ := strings.Cut(rest, " ")
				request, err := http.NewRequestWithContext(t.Context(), method, server.url+path, body)
				if err != nil {
					t.Fatal(err)
				}
				for _, line := range r.header {
					name, value, _ := strings.Cut(line, ": ")
					request.Header.Add(name, value)
				}
				response, err := server.client.Do(request)
				if err != nil {
					return answer{}, err
				}
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				if response.ProtoMajor != 2 {
					t.Errorf("answered by %s", response.Proto)
				}
				return answer{response.StatusCode, response.Header, string(text)}, err
			}
			r.logs.take(t)
			good := signed(t, "msg_"+server.name, event(""))
			before := s.state(t)
			want := before
			want.events++
			want.lastEvent++
			for _, row := range []row{
				{"", good, "200 stored"},
				{"", good, "200 duplicate"},
				{"", good.sending(good.body + " "), "401 unauthorized signature"},
				{"", good.without("Svix-Signature"), "401 unauthorized missing_header"},
				{"", good.plus("Svix-Id: twice"), "400 bad_request repeated_header"},
				{"", good.plus("Content-Encoding: br"), "415 unsupported_encoding content_encoding"},
				{"", good.to("GET " + webhookPath + " HTTP/2"), "405 method_not_allowed method"},
				{"", good.to("POST /webhooks HTTP/2"), "404 not_found path"},
				{"", good.sending(strings.Repeat("x", maxBody+1)), "413 too_large content_length"},
			} {
				// The length of the second reader is unknown, so it is not announced.
				for _, body := range []io.Reader{strings.NewReader(row.request.body), io.MultiReader(strings.NewReader(row.request.body))} {
					a, err := post(row.request.without("Content-Length").without("Host"), body)
					if err != nil {
						t.Fatalf("want %s: %v", row.want, err)
					}
					lines, _ := r.logs.take(t)
					wanted := row.want
					if _, ok := body.(*strings.Reader); !ok {
						wanted = strings.Replace(wanted, "stored", "duplicate", 1)
						wanted = strings.Replace(wanted, "content_length", "body", 1)
					}
					if len(lines) != 1 || a.summary(lines[0]) != wanted {
						t.Errorf("got %d %s, logged %+v; want %s", a.status, a.body, lines, wanted)
						continue
					}
					checkAnswer(t, a, lines[0], row.request)
				}
			}

			// The client aborts in the middle of a body.
			broken := io.MultiReader(strings.NewReader("{"), errorReader{})
			if a, err := post(good.with("Svix-Id", "msg_broken").without("Content-Length").without("Host"), broken); err == nil {
				t.Errorf("got %d for half a body", a.status)
			}
			embeddedtest.Await(t, "half a body is rejected", func() bool {
				lines, _ := r.logs.take(t)
				return len(lines) == 1 && lines[0].Reason == "body_cut_short"
			})
			if got := s.state(t); got != want {
				t.Errorf("the streams hold %+v, want %+v", got, want)
			}
		})
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("the client aborts") }
