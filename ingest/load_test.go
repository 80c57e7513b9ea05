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

// loadEnv names the address that the process is to load instead of running
// tests: BenchmarkHandler's client is a process of its own.
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

// runLoad reads how many events to send over how many connections, signs them
// all, says "ready", and on the next line sends them. In the end it says how
// many were refused and which latency 99 % of the others kept.
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

	latencies := make([]time.Duration, n) // 0: refused
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
	refused := 0
	for refused < n && latencies[refused] == 0 {
		refused++
	}
	fmt.Fprintln(out, refused, latencies[(n-1)*99/100].Microseconds())
	return 0
}
