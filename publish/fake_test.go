package publish_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded/embeddedtest"
)

// fakeJetStream imitates JetStream on a server without it, and misbehaves on demand. As
// JetStream does, it stores a message only once if its headers demand that.
type fakeJetStream struct {
	server *server.Server
	nc     *nats.Conn

	mu        sync.Mutex
	configs   map[string]jetstream.StreamConfig
	stored    []*nats.Msg // of all streams; index + 1 is the sequence
	batches   map[string][]*nats.Msg
	single    []fault             // of the next single messages
	batch     []fault             // of the next first messages and commits of batches
	cursed    map[string]int      // by message id, the code that rejects any request with it
	create    *jetstream.APIError // if not nil, rejects the creation of streams
	client    uint64              // connection id of the publisher
	commits   int                 // of batches
	forgetful bool                // drops the metadata of streams
	headless  string              // the stream that has no leader
	leader    string              // of the streams of a cluster
	asked     map[string]int      // requests for the state, by stream
}

func startFake(t *testing.T) *fakeJetStream {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(embeddedtest.Timeout) {
		t.Fatal("the server did not start")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.Timeout(embeddedtest.Timeout))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeJetStream{server: s, nc: nc}
	f.reset()
	for _, subject := range []string{"$JS.API.>", "versive.>", "versive-quarantine.>"} {
		if _, err := nc.Subscribe(subject, f.serve); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	})
	return f
}

// reset deletes all streams and faults.
func (f *fakeJetStream) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.configs = map[string]jetstream.StreamConfig{}
	f.batches = map[string][]*nats.Msg{}
	f.asked = map[string]int{}
	f.stored, f.single, f.batch, f.cursed = nil, nil, nil, nil
}

// misbehave sets the faults of the following requests.
func (f *fakeJetStream) misbehave(single, batch []fault, cursed map[string]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.single, f.batch, f.cursed = slices.Clone(single), slices.Clone(batch), cursed
	conns, err := f.server.Connz(&server.ConnzOptions{})
	if err != nil {
		panic(err)
	}
	for _, c := range conns.Conns {
		if c.Name == "versive-ingress" {
			f.client = c.Cid
		}
	}
}

// ids returns the ids of all stored messages, in order.
func (f *fakeJetStream) ids() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := make([]string, len(f.stored))
	for i, m := range f.stored {
		ids[i] = m.Header.Get(jetstream.MsgIDHeader)
	}
	return ids
}

// serve handles all requests, one at a time.
func (f *fakeJetStream) serve(m *nats.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	verb, isAPI := strings.CutPrefix(m.Subject, "$JS.API.")
	switch {
	case !isAPI:
		f.publish(m)
	case strings.HasPrefix(verb, "STREAM.INFO."):
		f.info(m, strings.TrimPrefix(verb, "STREAM.INFO."))
	case strings.HasPrefix(verb, "STREAM.CREATE."), strings.HasPrefix(verb, "STREAM.UPDATE."):
		if f.create != nil {
			f.answer(m, map[string]any{"error": f.create})
			return
		}
		var config jetstream.StreamConfig
		if err := json.Unmarshal(m.Data, &config); err != nil {
			panic(err)
		}
		if f.forgetful {
			config.Metadata = nil
		}
		f.configs[config.Name] = config
		f.info(m, config.Name)
	case strings.HasPrefix(verb, "DIRECT.GET."):
		f.get(m, strings.TrimPrefix(verb, "DIRECT.GET."))
	}
}

func (f *fakeJetStream) info(m *nats.Msg, stream string) {
	config, ok := f.configs[stream]
	f.asked[stream]++
	if !ok {
		f.reject(m, 10059)
		return
	}
	info := map[string]any{"config": config, "state": map[string]any{}}
	if stream == "VERSIVE_DEAD" {
		info["created"] = time.Unix(1, 0).UTC()
	}
	if f.leader != "" {
		info["cluster"] = map[string]any{"name": "c", "leader": f.leader}
	}
	if stream == f.headless {
		info["cluster"] = map[string]any{"name": "c"}
	}
	f.answer(m, info)
}

// publish handles a single message or a message of a batch.
func (f *fakeJetStream) publish(m *nats.Msg) {
	id := m.Header.Get("Nats-Batch-Id")
	if m.Header.Get(jetstream.MsgRollup) != "" {
		f.lookUp(m)
		return
	}
	if id == "" {
		f.store(m, "", []*nats.Msg{m})
		return
	}
	batch := f.batches[id]
	if n := m.Header.Get("Nats-Batch-Sequence"); n != strconv.Itoa(len(batch)+1) {
		delete(f.batches, id)
		if m.Reply != "" {
			f.reject(m, 10176) // incomplete
		}
		return
	}
	if m.Header.Get("Nats-Batch-Commit") != "" {
		delete(f.batches, id)
		f.commits++
		f.store(m, id, batch)
		return
	}
	if m.Reply != "" { // the first one
		fault := take(&f.batch)
		if fault.Code != 0 {
			f.reject(m, fault.Code)
			return
		}
		if fault.Lose || fault.Part || fault.Silent || fault.Cut {
			f.cut(fault)
			return
		}
	}
	f.batches[id] = append(batch, m)
	if m.Reply != "" {
		_ = m.Respond(nil)
	}
}

// store stores all messages or none, and answers request. batch is "" for a single
// message.
func (f *fakeJetStream) store(request *nats.Msg, batch string, messages []*nats.Msg) {
	faults := &f.single
	if batch != "" {
		faults = &f.batch
	}
	fault := take(faults)
	switch {
	case fault.Code != 0:
		f.reject(request, fault.Code)
		return
	case fault.Part:
		messages = messages[:len(messages)/2]
	case fault.Lose, fault.Cut && !fault.Silent:
		f.cut(fault)
		return
	}
	for _, m := range messages {
		if code := f.cursed[m.Header.Get(jetstream.MsgIDHeader)]; code != 0 {
			f.reject(request, code)
			return
		}
		sequence := f.find(m)
		switch {
		case sequence == 0:
		case batch != "":
			f.reject(request, []int{10201, 10071}[sequence%2])
			return
		default:
			f.answer(request, map[string]any{"stream": f.stream(m), "seq": sequence, "duplicate": true})
			return
		}
	}
	f.stored = append(f.stored, messages...)
	if fault.Lose || fault.Part || fault.Silent {
		f.cut(fault)
		return
	}
	if fault.Garbage {
		_ = request.Respond([]byte("nonsense"))
		return
	}
	ack := map[string]any{"stream": f.stream(request), "seq": len(f.stored)}
	if batch != "" {
		ack["batch"], ack["count"] = batch, len(messages)
		if fault.Mixed {
			ack["batch"], ack["seq"] = "another", 1
		}
	}
	time.Sleep(fault.Delay)
	f.answer(request, ack)
	if fault.Twice {
		f.answer(request, ack)
	}
}

func take(faults *[]fault) (next fault) {
	if len(*faults) > 0 {
		next, *faults = (*faults)[0], (*faults)[1:]
	}
	return next
}

// lookUp handles a message with an invalid rollup, which is not stored.
func (f *fakeJetStream) lookUp(m *nats.Msg) {
	fault := take(&f.single)
	switch sequence := f.find(m); {
	case fault.Code != 0:
		f.reject(m, fault.Code)
	case fault.Lose, fault.Part, fault.Silent, fault.Cut:
		f.cut(fault)
	case fault.Garbage:
		_ = m.Respond([]byte("nonsense"))
	case sequence == 0:
		f.reject(m, 10111)
	default:
		f.answer(m, map[string]any{"stream": f.stream(m), "seq": sequence, "duplicate": true})
	}
}

// find returns the sequence of a message that prevents m from being stored: one with
// the same id, or the same subject if m expects none. It returns 0 if there is none.
func (f *fakeJetStream) find(m *nats.Msg) int {
	for i, s := range f.stored {
		id := m.Header.Get(jetstream.MsgIDHeader)
		if id != "" && f.stream(s) == f.stream(m) && s.Header.Get(jetstream.MsgIDHeader) == id ||
			m.Header.Get(jetstream.ExpectedLastSubjSeqHeader) == "0" && s.Subject == m.Subject {
			return i + 1
		}
	}
	return 0
}

func (f *fakeJetStream) stream(m *nats.Msg) string {
	if strings.HasPrefix(m.Subject, "versive.") {
		return "VERSIVE"
	}
	return "VERSIVE_QUARANTINE"
}

// get answers a direct get of one subject or of several.
func (f *fakeJetStream) get(m *nats.Msg, target string) {
	stream, subject, single := strings.Cut(target, ".")
	var many struct {
		MultiLast []string `json:"multi_last"`
	}
	if !single {
		if err := json.Unmarshal(m.Data, &many); err != nil {
			panic(err)
		}
	} else {
		many.MultiLast = []string{subject}
	}
	found := false
	for i, s := range f.stored {
		if !slices.Contains(many.MultiLast, s.Subject) {
			continue
		}
		found = true
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{
			"Nats-Stream": {stream}, "Nats-Subject": {s.Subject}, "Nats-Sequence": {strconv.Itoa(i + 1)},
			"Nats-Time-Stamp": {time.Now().Format(time.RFC3339Nano)}, "Nats-Num-Pending": {"0"},
		}, Data: s.Data})
	}
	switch {
	case !found:
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"404"}}})
	case !single:
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"204"}, "Description": {"EOB"}}})
	}
}

func (f *fakeJetStream) cut(fault fault) {
	if fault.Cut {
		_ = f.server.DisconnectClientByID(f.client)
	}
}

func (f *fakeJetStream) answer(m *nats.Msg, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	_ = m.Respond(data) // the client may have disconnected
}

func (f *fakeJetStream) reject(m *nats.Msg, code int) {
	status := 400
	if code == 10059 {
		status = 404
	}
	f.answer(m, map[string]any{"error": map[string]any{"code": status, "err_code": code, "description": fmt.Sprint("fake ", code)}})
}
