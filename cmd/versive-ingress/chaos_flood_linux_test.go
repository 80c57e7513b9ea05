package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/publish/embedded/embeddedtest"
)

func init() {
	faults = append(faults, fault{"flood", false, floodBodies})
}

// floodBodies opens many connections that each send a large body, forged or
// signed, whole or not, while small webhooks come in; then the slow floods
// follow. The ingress keeps within its memory, answers 503 to the surplus, and
// goes on storing small events.
func floodBodies(r *round) {
	s := r.settings()
	s.PublishTimeout = 8 * time.Second
	f := &flood{connections: 2000, lasts: 20 * time.Second, bound: 600 << 20}
	if !r.long {
		f = &flood{connections: 200, lasts: time.Second, bound: 300 << 20}
		s.MaxInflight = 64 << 20
	}
	f.signatures = make([]string, f.connections/50)
	f.signed = []float64{0, 0.5, 1}[r.random.IntN(3)]
	f.stalled = []float64{0, 0.3, 0.9}[r.random.IntN(3)]
	f.body = []byte(strings.Replace(string(sample), `"transcript": "..."`, `"transcript": "`+strings.Repeat("word ", 1<<20)+`"`, 1))
	f.body = append(f.body, bytes.Repeat([]byte(" "), config.DefaultMaxBody-len(f.body))...)

	cmd := r.launch(s)
	awaitReady(r, s)
	r.begin(&storm{think: 50 * time.Millisecond, small: true, allowed: []int{http.StatusBadRequest}}, s)
	r.storm.awaitAccepted(r, 1)
	f.sign(s.Secrets[0])
	f.run(r, s)
	r.storm.awaitAccepted(r, 1)
	peak := peakMemory(r, cmd.Process.Pid)
	for _, slow := range slowFloods {
		r.floodSlowly(s, slow, cmd.Process.Pid, f.bound)
	}
	r.settle()
	f.settle(r, s)

	r.staged = f.sent
	if len(f.refusals) == 0 {
		r.Fatal("no surplus: the flood was too small to show anything")
	}
	slices.Sort(f.refusals)
	percent := func(p int) time.Duration { return f.refusals[(len(f.refusals)-1)*p/100].Round(time.Millisecond) }
	r.Logf("%d large bodies, %v signed, %v stalled: %v; peak of resident memory %d MiB; 503 after %v, p99 %v, at most %v", f.sent, f.signed, f.stalled, f.answers, peak>>20, percent(50), percent(99), percent(100))
	if bound := memoryFactor * f.bound; peak > bound {
		r.Errorf("resident memory reached %d MiB, want at most %d", peak>>20, bound>>20)
	}
	for _, a := range r.storm.history {
		if a.answer.Status == http.StatusServiceUnavailable && !strings.Contains(a.id, "large") {
			r.Errorf("%s is small, and was answered %v after %v", a.id, a.answer, a.took)
		}
	}
	r.check(r.dialEmbedded(s), s.Stream)
}

// A flood is many large webhooks at the same time.
type flood struct {
	connections int
	lasts       time.Duration
	bound       uint64 // of the ingress's resident memory, in bytes
	body        []byte
	signed      float64 // the share of them
	stalled     float64 // the share of those that do not send all

	now        string // when all were signed
	signatures []string

	mu       sync.Mutex
	sent     int
	answers  map[int]int     // by status
	refusals []time.Duration // how long each 503 took
}

// sign signs a few ids beforehand: it takes longer than sending them.
func (f *flood) sign(secret string) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		panic(err)
	}
	f.now = strconv.FormatInt(time.Now().Unix(), 10)
	for n := range f.signatures {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.", largeID(n), f.now)
		mac.Write(f.body)
		f.signatures[n] = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
}

func largeID(n int) string { return fmt.Sprint("msg_large_", n) }

// run keeps all the connections busy for a while.
func (f *flood) run(r *round, s config.Settings) {
	f.answers = make(map[int]int)
	end := time.Now().Add(f.lasts)
	var wg sync.WaitGroup
	for n := range f.connections {
		random := rand.New(rand.NewPCG(r.random.Uint64(), uint64(n)))
		wg.Go(func() {
			for first := true; first || time.Now().Before(end); first = false {
				n := random.IntN(len(f.signatures))
				a := attempt{id: largeID(n), again: true}
				if random.Float64() >= f.signed { // with the signature of another
					a = attempt{id: "msg_forged_large_" + strconv.Itoa(n), kind: forged}
				}
				size := len(f.body)
				if random.Float64() < f.stalled {
					size = random.IntN(size)
				}
				f.post(r, s, a, f.signatures[n], size, random.IntN(4) == 0)
				time.Sleep(time.Duration(random.Int64N(int64(time.Second)))) // as Retry-After asks, only sooner
			}
		})
	}
	wg.Wait()
}

// settle sends again what was authentic, one by one, until it is accepted.
func (f *flood) settle(r *round, s config.Settings) {
	accepted := make(map[string]bool)
	for _, a := range r.storm.history {
		if a.kind == understood && strings.Contains(a.id, "large") {
			accepted[a.id] = accepted[a.id] || a.answer.Accepted()
		}
	}
	for n, signature := range f.signatures {
		if done, sent := accepted[largeID(n)]; sent && !done {
			embeddedtest.Await(r, largeID(n)+" accepted", func() bool {
				return f.post(r, s, attempt{id: largeID(n), again: true}, signature, len(f.body), false)
			})
		}
	}
}

// post sends one large webhook, or some of it, and reports whether it was
// accepted.
func (f *flood) post(r *round, s config.Settings, a attempt, signature string, size int, chunked bool) bool {
	began := time.Now()
	a.answer = f.exchange(s, a.id, signature, size, chunked)
	a.took = time.Since(began)
	r.storm.note(a)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent++
	f.answers[a.answer.Status]++
	if a.answer.Status == http.StatusServiceUnavailable {
		f.refusals = append(f.refusals, a.took)
	}
	return a.answer.Accepted()
}

func (f *flood) exchange(s config.Settings, id, signature string, size int, chunked bool) (a sender.Answer) {
	conn, err := net.Dial("tcp", s.Listen)
	if err != nil {
		return sender.Answer{Detail: err.Error()}
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
	_ = conn.SetDeadline(time.Now().Add(config.SenderTimeout))
	go f.write(conn, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nSvix-Id: %s\r\nSvix-Timestamp: %s\r\nSvix-Signature: v1,%s\r\n", s.Path, id, f.now, signature), size, chunked)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return sender.Answer{Detail: err.Error()}
	}
	defer response.Body.Close()
	a.Status = response.StatusCode
	_ = json.NewDecoder(response.Body).Decode(&a) // see storm.post
	if a.Status == http.StatusServiceUnavailable && response.Header.Get("Retry-After") == "" {
		a.Status = -a.Status
	}
	return a
}

// write sends size bytes of the body, and then no more.
func (f *flood) write(to io.Writer, head string, size int, chunked bool) {
	if !chunked {
		fmt.Fprintf(to, "%sContent-Length: %d\r\n\r\n", head, len(f.body))
		_, _ = to.Write(f.body[:size])
		return
	}
	fmt.Fprintf(to, "%sTransfer-Encoding: chunked\r\n\r\n", head)
	for sent := 0; sent < size; sent += 64 << 10 {
		n := min(64<<10, size-sent)
		if _, err := fmt.Fprintf(to, "%x\r\n%s\r\n", n, f.body[sent:sent+n]); err != nil {
			return
		}
	}
	if size == len(f.body) {
		_, _ = io.WriteString(to, "0\r\n\r\n")
	}
}

// peakMemory returns the most that a process has had resident, in bytes.
func peakMemory(t testing.TB, pid int) uint64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	kilobytes, err := strconv.ParseUint(regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindStringSubmatch(string(status))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}
