package ingest_test

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	svix "github.com/svix/svix-webhooks/go"
)

// loadEnv is the environment variable with the address to load instead of running
// tests, for the client process of BenchmarkHandler.
const loadEnv = "INGRESS_TEST_LOAD"

// loadBody is an event of 8 KiB with a conversation.
func loadBody() string {
	turn := `,{"role":"user","content":"` + strings.Repeat("an answer of some length ", 6) + `"}`
	turns := `{"role":"assistant","content":"Hello."}` + strings.Repeat(turn, 20)
	more := func(transcript string) string {
		return event(`,"transcript":"` + transcript + `","parsed_conversation_json":[` + turns + `]`)
	}
	return more(strings.Repeat("x", 8<<10-len(more(""))))
}

// runLoad reads the numbers of events and connections from in, signs the events,
// prints "ready", and sends them after another line of input. It then prints how
// many were rejected and the 99th percentile latency in microseconds. It returns
// the exit status.
func runLoad(address string, in io.Reader, out io.Writer) int {
	var n, connections int
	if _, err := fmt.Fscanln(in, &n, &connections); err != nil {
		return 2
	}
	webhook, err := svix.NewWebhook(secret)
	if err != nil {
		return 2
	}
	body, prefix, at := loadBody(), "msg_"+rand.Text()+"_", time.Now()
	heads := make([]string, n)
	for i := range heads {
		id := prefix + itoa(i)
		signature, err := webhook.Sign(id, at, []byte(body))
		if err != nil {
			return 2
		}
		heads[i] = fmt.Sprintf("POST %s HTTP/1.1\r\nHost: ingress.test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
			"Svix-Id: %s\r\nSvix-Timestamp: %s\r\nSvix-Signature: %s\r\n\r\n", webhookPath, len(body), id, unix(at), signature)
	}
	conns := make([]net.Conn, connections)
	for i := range conns {
		if conns[i], err = net.Dial("tcp", address); err != nil {
			return 2
		}
	}
	fmt.Fprintln(out, "ready")
	fmt.Fscanln(in)

	latencies := make([]time.Duration, n) // 0 if rejected
	var wg sync.WaitGroup
	for c, conn := range conns {
		wg.Go(func() {
			from, buf := bufio.NewReader(conn), make([]byte, 0, 16<<10)
			for i := c; i < n; i += connections {
				buf = append(append(buf[:0], heads[i]...), body...)
				started := time.Now()
				if _, err := conn.Write(buf); err != nil {
					return
				}
				response, err := http.ReadResponse(from, nil)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				if response.StatusCode/100 == 2 {
					latencies[i] = time.Since(started)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(latencies)
	rejected := 0
	for rejected < n && latencies[rejected] == 0 {
		rejected++
	}
	fmt.Fprintln(out, rejected, latencies[(n-1)*99/100].Microseconds())
	return 0
}
