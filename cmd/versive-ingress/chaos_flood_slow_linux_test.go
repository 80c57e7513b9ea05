package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
)

// A slowFlood is what each of many connections does, without a signature: it
// holds what it can and sends little. hold returns when the connection fails.
type slowFlood struct {
	name        string
	connections int // in the long form
	short       int // in the short form
	hold        func(net.Conn, config.Settings)
}

var slowFloods = []slowFlood{
	{"8 MiB announced, nothing sent", 2000, 50, announced{length: config.DefaultMaxBody}.hold},
	{"64 KiB announced, a byte now and then", 2000, 50, announced{length: 64 << 10, drips: true}.hold},
	{"HTTP/2 without a window", 2000, 200, streams{path: "/"}.hold},
	{"HTTP/2 without a window, refused by net/http", 2000, 0, streams{path: "/", more: "connection"}.hold},
	{"HTTP/2, a part of each body", 2000, 50, streams{body: 4 << 10}.hold},
}

// floodSlowly runs one of them while signed webhooks of two sizes are sent, over
// connections that are kept and over new ones.
func (r *round) floodSlowly(s config.Settings, f slowFlood, pid int, bound uint64) {
	connections, lasts := f.short, time.Second/2
	if r.long {
		connections, lasts = f.connections, 20*time.Second
	}
	if connections == 0 {
		return
	}
	forgetPeak(r, pid)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var begun, flooding sync.WaitGroup
	begun.Add(connections)
	for range connections {
		begin := sync.OnceFunc(begun.Done)
		flooding.Go(func() {
			for ctx.Err() == nil {
				if conn, err := net.Dial("tcp", s.Listen); err == nil {
					begin()
					cut := context.AfterFunc(ctx, func() { conn.Close() })
					f.hold(conn, s)
					cut()
					conn.Close()
				}
				time.Sleep(rand.N(100 * time.Millisecond))
			}
		})
	}
	begun.Wait()
	time.AfterFunc(lasts, cancel)
	sent, refused := r.sendDuring(ctx, s, f.name)
	flooding.Wait()
	peak := peakMemory(r, pid)
	r.Logf("%d connections, %s: peak of resident memory %d MiB; %d of %d signed webhooks not accepted", connections, f.name, peak>>20, len(refused), sent)
	if bound *= memoryFactor; peak > bound {
		r.Errorf("%s: resident memory reached %d MiB, want at most %d", f.name, peak>>20, bound>>20)
	}
	if len(refused)*20 > sent {
		r.Errorf("%s: %d of %d signed webhooks were not accepted, want at most 5 %%: %v", f.name, len(refused), sent, refused)
	}
}

// sendDuring sends signed webhooks until ctx ends, and afterwards once more what
// was not accepted.
func (r *round) sendDuring(ctx context.Context, s config.Settings, flood string) (sent int, refused []sender.Answer) {
	flood = strings.Map(func(c rune) rune {
		if c == ' ' || c == ',' || c == '/' {
			return '_'
		}
		return c
	}, flood)
	var mu sync.Mutex // guards the counts
	var sending sync.WaitGroup
	for n, size := range []int{1000, 1000, 100_000, 100_000} {
		random := rand.New(rand.NewPCG(r.random.Uint64(), uint64(n)))
		sender := &storm{client: &http.Client{Timeout: config.SenderTimeout, Transport: &http.Transport{DisableKeepAlives: n%2 == 0}}}
		sending.Go(func() {
			defer sender.client.CloseIdleConnections()
			for i := 0; i < 5 || ctx.Err() == nil; i++ { // enough for a share of them to mean something
				id := fmt.Sprintf("msg_%s_%d_%d", flood, n, i)
				body := interview(id)
				body = append(body, bytes.Repeat([]byte(" "), max(0, size-len(body)))...)
				a := attempt{id: id}
				began := time.Now()
				a.answer = sender.post(r.storm.sign("http://"+s.Listen+s.Path, random, a, body))
				a.took = time.Since(began)
				r.storm.note(a)
				mu.Lock()
				sent++
				if !a.answer.Accepted() {
					refused = append(refused, a.answer)
					sending.Go(func() {
						<-ctx.Done()
						r.storm.deliver(r.Context(), random, id, understood, body)
					})
				}
				mu.Unlock()
			}
		})
	}
	sending.Wait()
	return sent, refused
}

// announced is a flood of headers that announce a body of some length.
type announced struct {
	length int
	drips  bool // a byte now and then
}

func (f announced) hold(conn net.Conn, s config.Settings) {
	_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nSvix-Id: msg_forged\r\nSvix-Timestamp: %d\r\nSvix-Signature: v1,AAAA\r\nContent-Length: %d\r\n\r\n",
		s.Path, time.Now().Unix(), f.length)
	for f.drips && err == nil {
		time.Sleep(100 * time.Millisecond)
		_, err = io.WriteString(conn, "x")
	}
	_, _ = io.Copy(io.Discard, conn)
}

// streams is a flood of HTTP/2 requests whose answers have no window to be sent
// in: as many as the server allows, and a new one for each that it resets.
type streams struct {
	path string // the webhook's if empty
	more string // a header beside the usual ones, with a long value
	body int    // bytes that are sent of a body that does not end; 0: there is none
}

func (f streams) hold(conn net.Conn, s config.Settings) {
	framer := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return
	}
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		return
	}
	headers, id := f.headers(s), uint32(1)
	open := func() error {
		err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers, EndHeaders: true, EndStream: f.body == 0})
		if err == nil && f.body > 0 {
			err = framer.WriteData(id, false, make([]byte, f.body))
		}
		id += 2
		return err
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			most, _ := frame.Value(http2.SettingMaxConcurrentStreams)
			for range most {
				if err := open(); err != nil {
					return
				}
			}
		case *http2.RSTStreamFrame:
			err = open()
		case *http2.PingFrame:
			err = framer.WritePing(true, frame.Data)
		}
		if err != nil {
			return
		}
	}
}

// headers returns the header block of every request: no field of it is indexed.
func (f streams) headers(s config.Settings) []byte {
	fields := []string{
		":method", "POST", ":scheme", "http", ":authority", "x", ":path", s.Path,
		"svix-id", "msg_forged", "svix-timestamp", fmt.Sprint(time.Now().Unix()), "svix-signature", "v1,AAAA",
	}
	if f.path != "" {
		fields[7] = f.path
	}
	if f.more != "" {
		fields = append(fields, f.more, strings.Repeat("x", 4<<10)) // of 16 KiB that the headers may have
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true}); err != nil {
			panic(err) // a buffer takes everything
		}
	}
	return block.Bytes()
}

// forgetPeak begins peakMemory anew.
func forgetPeak(r *round, pid int) {
	r.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		r.Fatal(err)
	}
}
