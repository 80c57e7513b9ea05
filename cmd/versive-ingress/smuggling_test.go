package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
)

var nginx = flag.String("nginx", "", "program to send what is hostile through as well; see .ci/smuggling")

// nginxConfig has two proxies before an ingress: one as it comes, and one that
// passes on what it can, as it arrives. Each has a single connection to the
// ingress, which all its clients share.
const nginxConfig = `
daemon off;
master_process off; # one process, to be ended as one
error_log stderr crit;
pid %[1]s/pid;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	upstream ingress { server %[2]s; keepalive 1; }
	proxy_http_version 1.1;
	proxy_set_header Connection "";
	proxy_ignore_client_abort on; # or an attacker who has sent all may miss an answer
	server {
		listen %[3]s;
		location / { proxy_pass http://ingress; }
	}
	server {
		listen %[4]s;
		ignore_invalid_headers off;
		underscores_in_headers on;
		merge_slashes off;
		location / { proxy_pass http://ingress; proxy_request_buffering off; proxy_buffering off; proxy_set_header Host $http_host; }
	}
}
`

// startNginx returns the addresses of the two.
func startNginx(t *testing.T, ingress string) (plain, lenient string) {
	t.Helper()
	dir := t.TempDir()
	plain, lenient = embeddedtest.FreeAddress(t), embeddedtest.FreeAddress(t)
	config := writeFile(t, "nginx.conf", fmt.Sprintf(nginxConfig, dir, ingress, plain, lenient))
	cmd := exec.Command(*nginx, "-e", "stderr", "-p", dir, "-c", config)
	log := &embeddedtest.Log{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	embeddedtest.Await(t, "nginx answers", func() bool {
		status, _ := get("http://" + lenient + "/")
		return status == http.StatusNotFound
	})
	return plain, lenient
}

// smuggled is a request that hides in another. Its last header has no end, so
// that it would take the beginning of the next request as its value.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Rest: "

// attacks are bytes whose requests two servers may divide differently.
func attacks(secret string) map[string]string {
	post := func(body string, headers ...string) string {
		return "POST /webhooks/versive HTTP/1.1\r\nHost: x\r\n" + strings.Join(headers, "\r\n") + "\r\n\r\n" + body
	}
	length := func(s string) string { return fmt.Sprintf("Content-Length: %d", len(s)) }
	hidden := "0\r\n\r\n" + smuggled
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	const chunked = "Transfer-Encoding: chunked"

	all := map[string]string{
		"CL.TE":                          post(hidden, length(hidden), chunked),
		"TE.CL":                          post(chunk(smuggled)+"0\r\n\r\n", chunked, "Content-Length: 4"),
		"TE.CL, the length last":         post(chunk(smuggled)+"0\r\n\r\n", "Content-Length: 4", chunked),
		"two lengths":                    post(smuggled, "Content-Length: 0", length(smuggled)),
		"two lengths, the other way":     post(smuggled, length(smuggled), "Content-Length: 0"),
		"the same length twice":          post("{}", "Content-Length: 2", "Content-Length: 2"),
		"a list of lengths":              post(smuggled, "Content-Length: 0, "+length(smuggled)[16:]),
		"a length with a sign":           post(smuggled, "Content-Length: +0"),
		"a length in hexadecimal":        post(smuggled, "Content-Length: 0x0"),
		"a negative length":              post(smuggled, "Content-Length: -1"),
		"a length that overflows":        post(smuggled, "Content-Length: 18446744073709551616"),
		"a length without digits":        post(smuggled, "Content-Length: "),
		"a folded length":                post(smuggled, "Content-Length:\r\n 0"),
		"a space before the colon":       post(hidden, length(hidden), "Transfer-Encoding : chunked"),
		"a space before the length's":    post(smuggled, "Content-Length : "+length(smuggled)[16:]),
		"a space before the header":      post(hidden, length(hidden), " Transfer-Encoding: chunked"),
		"an underscore for the hyphen":   post(hidden, length(hidden), "Transfer_Encoding: chunked"),
		"a folded encoding":              post(hidden, length(hidden), "Transfer-Encoding:\r\n chunked"),
		"a folded id":                    post("{}", "Svix-Id: a\r\n b", "Content-Length: 2"),
		"an encoding in another's value": post(hidden, length(hidden), "X: x\nTransfer-Encoding: chunked"),
		"an encoding after a bare CR":    post(hidden, length(hidden), "X: x\rTransfer-Encoding: chunked"),
		"an encoding after NUL":          post(hidden, length(hidden), "X: x\x00Transfer-Encoding: chunked"),
		"bare line feeds":                strings.ReplaceAll(post(hidden, length(hidden), chunked), "\r\n", "\n"),
		"bare carriage returns":          strings.ReplaceAll(post(hidden, length(hidden), chunked), "\r\n", "\r"),
		"a header without a name":        post(smuggled, ": x", "Content-Length: 0"),
		"a header without a colon":       post(smuggled, "X", "Content-Length: 0"),

		"a chunk's size in 0x":       post("0x0\r\n\r\n"+smuggled, chunked),
		"a chunk's size with a sign": post("+0\r\n\r\n"+smuggled, chunked),
		"a negative chunk":           post("-1\r\n\r\n"+smuggled, chunked),
		"a chunk that overflows":     post("10000000000000000\r\n"+smuggled, chunked),
		"a chunk without a size":     post("\r\n"+smuggled, chunked),
		"a chunk with a bare LF":     post("2\n{}\n0\n\n"+smuggled, chunked),
		"a chunk with an extension":  post("2;a=\"\r\n\"\r\n{}\r\n0\r\n\r\n"+smuggled, chunked),
		"a chunk that is too long":   post("2\r\n{}}}\r\n0\r\n\r\n"+smuggled, chunked),
		"a trailer":                  post("0\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n"+smuggled, chunked, "Trailer: Content-Length"),

		"HTTP/1.0":                    strings.Replace(post(smuggled, "Connection: keep-alive"), "HTTP/1.1", "HTTP/1.0", 1),
		"HTTP/1.0, chunked":           strings.Replace(post(hidden, length(hidden), chunked, "Connection: keep-alive"), "HTTP/1.1", "HTTP/1.0", 1),
		"HTTP/0.9":                    "GET /smuggled\r\n" + smuggled,
		"HTTP/1.2":                    strings.Replace(post(smuggled, "Content-Length: 0"), "HTTP/1.1", "HTTP/1.2", 1),
		"HTTP/2 in the line":          strings.Replace(post(smuggled, "Content-Length: 0"), "HTTP/1.1", "HTTP/2.0", 1),
		"absolute form":               strings.Replace(post(smuggled, length(smuggled)), " /webhooks", " http://other.test/webhooks", 1),
		"absolute form, and a colon":  strings.Replace(post(smuggled, length(smuggled)), " /webhooks", " http://x:80:80/webhooks", 1),
		"authority form":              "CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"asterisk form":               "OPTIONS * HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"a request in the target":     "GET /a HTTP/1.1\r\nX: HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"no host":                     "POST /webhooks/versive HTTP/1.1\r\n" + length(smuggled) + "\r\n\r\n" + smuggled,
		"two hosts":                   post(smuggled, "Host: y", length(smuggled)),
		"a body for GET":              strings.Replace(post(smuggled, length(smuggled)), "POST", "GET", 1),
		"a body for HEAD":             strings.Replace(post(smuggled, length(smuggled)), "POST", "HEAD", 1),
		"an upgrade to HTTP/2":        post("", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Content-Length: 0"),
		"an upgrade to WebSocket":     "GET /webhooks/versive HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + smuggled,
		"a body before the word":      post(smuggled, "Expect: 100-continue", length(smuggled)),
		"a length that is hop-by-hop": post(smuggled, length(smuggled), "Connection: Content-Length"),
		"ids that are hop-by-hop":     post("{}", "Content-Length: 2", "Connection: Svix-Id, Svix-Signature", "Svix-Id: msg_x"),
	}
	for _, encoding := range []string{
		"xchunked", "chunked, identity", "identity, chunked", "chunked, chunked", "\tchunked", "\vchunked", "\"chunked\"",
		"chunked;q=1", "CHUNKED", "chunked\r\nTransfer-Encoding: x", "x\r\nTransfer-Encoding: chunked", "gzip, chunked", "",
	} {
		all[fmt.Sprintf("TE.TE %q", encoding)] = post(hidden, length(hidden), "Transfer-Encoding: "+encoding)
	}

	// An authentic request carries no other one with it.
	var authentic bytes.Buffer
	if err := signed("http://x/webhooks/versive", secret, "msg_authentic", sample).Write(&authentic); err != nil {
		panic(err) // a buffer takes all
	}
	all["an authentic request"] = authentic.String() + smuggled
	all["an authentic request, with an encoding"] = strings.Replace(authentic.String(), "Content-Length", chunked+"\r\nContent-Length", 1) + smuggled
	all["an authentic request, with a length more"] = strings.Replace(authentic.String(), "Content-Length", "Content-Length: 0\r\nContent-Length", 1) + smuggled
	return all
}

// Nothing unsigned that an attacker sends, directly or through a proxy, is stored.
// Each client gets the answer to its own request, and other senders on the same
// connection are not affected.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	sys := run(t, newSettings(t))
	fronts := map[string]string{"direct": sys.settings.Listen}
	if *nginx != "" {
		fronts["nginx"], fronts["lenient nginx"] = startNginx(t, sys.settings.Listen)
	}
	accepted := map[string]uint64{}
	for front, address := range fronts {
		victim := &http.Client{Transport: &http.Transport{}}
		t.Cleanup(victim.CloseIdleConnections)
		for name, attack := range attacks(sys.settings.Secrets[0]) {
			before := sys.notFound()
			answers, authentic := assault(t, address, attack)
			if authentic != 0 {
				accepted["msg_authentic"] = authentic
			}
			for range 2 {
				id := sender.NewID()
				response, err := victim.Do(signed("http://"+address+sys.settings.Path, sys.settings.Secrets[0], id, interview(id)))
				if err != nil {
					t.Errorf("%s, %s: another sender has no answer: %v", front, name, err)
					continue
				}
				var a sender.Answer
				err = json.NewDecoder(response.Body).Decode(&a)
				response.Body.Close()
				if err != nil || a.Outcome != "stored" {
					t.Errorf("%s, %s: another sender was answered %s %q (%v)", front, name, response.Status, a.Outcome, err)
				}
				accepted[id] = a.Sequence
			}
			if seen := sys.notFound() - before; seen != answers {
				t.Errorf("%s, %s: the ingress has answered 404 %d times, the attacker got that %d times", front, name, seen, answers)
			}
		}
	}
	// Each accepted webhook is stored at the sequence of its answer, and nothing else is.
	js := embeddedtest.Connect(t, sys.BrokerURL())
	requireStored(t, js, sys.settings.Stream, accepted)
	if found := readStream(t, js, sys.settings.Stream); len(found) != len(accepted) {
		t.Errorf("%d events are stored, %d were accepted", len(found), len(accepted))
	}
	stream, err := js.Stream(t.Context(), "VERSIVE_QUARANTINE")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages in the quarantine", n)
	}
}

// notFound returns how often the ingress has answered 404.
func (s *system) notFound() (n int) {
	for line := range strings.Lines(s.metric("versive_ingress_requests_total")) {
		if rest, ok := strings.CutPrefix(line, `versive_ingress_requests_total{outcome="not_found",reason="path"} `); ok {
			_, _ = fmt.Sscan(rest, &n)
		}
	}
	return n
}

// assault sends raw bytes and returns how many 404 of the ingress's come back,
// and the sequence if a webhook was accepted.
func assault(t *testing.T, address, attack string) (notFound int, accepted uint64) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, attack); err != nil {
		t.Fatal(err)
	}
	// Nothing more is sent, so that a server which waits for the rest of a request
	// reads EOF.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(embeddedtest.Timeout))
	raw, err := io.ReadAll(conn)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Errorf("neither answered nor closed: %q", attack)
	}
	sequences := sequence.FindAllSubmatch(raw, -1)
	for _, found := range sequences {
		accepted, _ = strconv.ParseUint(string(found[1]), 10, 64)
	}
	if n := len(friendly.FindAll(raw, -1)); n != len(sequences) {
		t.Errorf("answered %q to %q", raw, attack)
	}
	return bytes.Count(raw, []byte(`"status":404`)), accepted
}

var (
	sequence = regexp.MustCompile(`"outcome":"(?:stored|duplicate)","stream":"VERSIVE","sequence":(\d+)`)
	friendly = regexp.MustCompile(`(?m)^HTTP/1\.[01] (?:101|2|3)`)
)
