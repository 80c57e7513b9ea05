package subscribe_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/embedded"
	"versive-ingress/publish/embedded/embeddedtest"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// damaged returns a system with n events of the given size, msg_1 of study_1 and so
// on, of the studies 0 to 2 in turn. change has damaged its store while it was
// stopped.
func damaged(t *testing.T, n, size int, change func(msgs string)) *system {
	t.Helper()
	dir := t.TempDir()
	s := newSystemIn(t, embedded.Config{Dir: dir})
	publish := func(id, interview, study string, size int) {
		m, err := schema.Normalize(id, fmt.Appendf(nil, `{"event_type":"interview.completed","interview":{"id":%q,"transcript":%q},"study":{"id":%q}}`,
			interview, bytes.Repeat([]byte("x"), size), study))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.publisher.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= n; i++ {
		publish(fmt.Sprint("msg_", i), fmt.Sprint("i", i), fmt.Sprint("study_", i%3), size)
	}
	for i := range 2 { // what is damaged in the last block is dropped at the start
		publish(fmt.Sprint("msg_large_", i), "large", "large", 6<<20)
	}
	s.publisher.Close()
	s.Stop()
	change(filepath.Join(dir, "jetstream", "$G", "streams", "VERSIVE", "msgs"))
	return newSystemIn(t, embedded.Config{Dir: dir})
}

// flip changes a byte of an event's content in a block.
func flip(t *testing.T, block, id string) {
	t.Helper()
	text, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(text, []byte("ce-id: "+id+"\r\n"))
	if at < 0 {
		t.Fatalf("%s has no %s", block, id)
	}
	text[at+7] ^= 1
	if err := os.WriteFile(block, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// readAll returns the sequences of a selection and the error that ends it.
func readAll(t *testing.T, source subscribe.Source, sel subscribe.Selection) (list []uint64, err error) {
	t.Helper()
	for m, err := range source.Range(t.Context(), sel) {
		if err != nil {
			return list, err
		}
		list = append(list, m.Sequence)
	}
	return list, nil
}

// A message that the stream counts and cannot return ends the ranges that it
// belongs to with an error, and no others, except those with a filter and an end:
// its subject is not known.
func TestRangeFindsUnreadable(t *testing.T) {
	t.Parallel()
	s := damaged(t, 20, 10, func(msgs string) { flip(t, filepath.Join(msgs, "1.blk"), "msg_7") })
	events := read(t, s.source, subscribe.Selection{Last: 6})
	after := read(t, s.source, subscribe.Selection{First: 8})
	rest := append(sequences(events), sequences(after)...)
	for name, test := range map[string]struct {
		sel  subscribe.Selection
		want []uint64
		err  bool
	}{
		"all":               {subscribe.Selection{}, rest, true},
		"by every subject":  {subscribe.Selection{Subject: ">"}, rest, true},
		"headers":           {subscribe.Selection{HeadersOnly: true}, rest, true},
		"it alone":          {subscribe.Selection{First: 7, Last: 7}, nil, true},
		"its interview":     {subscribe.Selection{Filter: schema.Filter{InterviewID: "i7"}}, nil, true},
		"to it":             {subscribe.Selection{First: 6, Last: 7}, []uint64{6}, true},
		"since":             {subscribe.Selection{Since: events[5].Time, Last: 9}, []uint64{6, 8, 9}, true},
		"until":             {subscribe.Selection{Until: after[1].Time}, []uint64{1, 2, 3, 4, 5, 6, 8}, true},
		"before":            {subscribe.Selection{Last: 6}, []uint64{1, 2, 3, 4, 5, 6}, false},
		"after":             {subscribe.Selection{First: 8, Last: 9}, []uint64{8, 9}, false},
		"after, by time":    {subscribe.Selection{Since: after[0].Time, Last: 9}, []uint64{8, 9}, false},
		"of its study":      {subscribe.Selection{Filter: schema.Filter{StudyID: "study_1"}, Last: 10}, []uint64{1, 4, 10}, true},
		"of another study":  {subscribe.Selection{Filter: schema.Filter{StudyID: "study_2"}}, []uint64{2, 5, 8, 11, 14, 17, 20}, false},
		"of another, to 10": {subscribe.Selection{Filter: schema.Filter{StudyID: "study_2"}, Last: 10}, []uint64{2, 5, 8}, true},
		"of the quarantine": {subscribe.Selection{Kind: schema.KindQuarantine}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := readAll(t, s.source, test.sel)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			unreadable, ok := errors.AsType[*subscribe.UnreadableError](err)
			if ok != test.err || !ok && err != nil {
				t.Errorf("got %v", err)
			}
			if ok && (unreadable.Stream != "VERSIVE" || unreadable.Sequences.String() != "7") {
				t.Errorf("got %+v", unreadable)
			}
		})
	}
}

// A range may begin at any sequence, in the newer half of the blocks as well, where the broker
// counts in another way.
func TestRangeFindsUnreadableInNewerBlocks(t *testing.T) {
	t.Parallel()
	s := damaged(t, 30, 900<<10, func(msgs string) { flip(t, filepath.Join(msgs, "3.blk"), "msg_24") })
	stream, err := s.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 29); err != nil { // otherwise the broker counts sequences
		t.Fatal(err)
	}
	study := schema.Filter{StudyID: "study_0"}
	for name, test := range map[string]struct {
		sel subscribe.Selection
		err bool
	}{
		"from its block":     {subscribe.Selection{First: 20}, true},
		"from before it":     {subscribe.Selection{First: 23}, true},
		"from it":            {subscribe.Selection{First: 24}, true},
		"from after it":      {subscribe.Selection{First: 25}, false},
		"its study":          {subscribe.Selection{Filter: study, First: 20}, true},
		"its study, near it": {subscribe.Selection{Filter: study, First: 23}, true},
		"its study, after":   {subscribe.Selection{Filter: study, First: 25}, false},
		"its interview":      {subscribe.Selection{Filter: schema.Filter{InterviewID: "i24"}, First: 22}, true},
		"of another study":   {subscribe.Selection{Filter: schema.Filter{StudyID: "study_1"}, First: 22}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.sel.HeadersOnly = true
			got, err := readAll(t, s.source, test.sel)
			unreadable, ok := errors.AsType[*subscribe.UnreadableError](err)
			if ok != test.err || !ok && err != nil || ok && unreadable.Sequences.String() != "24" {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// A message that is deleted after it was read does not hide one that cannot be
// read.
func TestRangeFindsUnreadableBesideDeleted(t *testing.T) {
	t.Parallel()
	s := damaged(t, 10, 10, func(msgs string) { flip(t, filepath.Join(msgs, "1.blk"), "msg_7") })
	stream, err := s.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for m, err := range s.source.Range(t.Context(), subscribe.Selection{}) {
		if last = err; m.Sequence == 3 {
			if err := stream.DeleteMsg(t.Context(), 3); err != nil {
				t.Fatal(err)
			}
		}
	}
	if unreadable, ok := errors.AsType[*subscribe.UnreadableError](last); !ok || unreadable.Sequences.String() != "7" {
		t.Errorf("got %v", last)
	}
}

// Asking for the state of the consumers, as monitoring does, makes the broker correct their
// counts, which does not hide a message that cannot be read.
func TestRangeFindsUnreadableWhileMonitored(t *testing.T) {
	t.Parallel()
	s := damaged(t, 10, 10, func(msgs string) { flip(t, filepath.Join(msgs, "1.blk"), "msg_7") })
	stream, err := s.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for m, err := range s.source.Range(t.Context(), subscribe.Selection{}) {
		if last = err; m.Sequence == 11 { // the next one is beyond the bytes of a request
			consumers := stream.ListConsumers(t.Context())
			for range consumers.Info() {
			}
			if err := consumers.Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if unreadable, ok := errors.AsType[*subscribe.UnreadableError](last); !ok || unreadable.Sequences.String() != "7" {
		t.Errorf("got %v", last)
	}
}

// Neither messages that are erased or deleted while a range reads, nor those of
// other subjects, are taken for unreadable.
func TestRangeKnowsWhatIsDeleted(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	stream, err := s.js.Stream(t.Context(), "VERSIVE")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Subjects = append(config.Subjects, "older.>")
	if _, err := s.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	const n = 3000 // more than one request asks for
	for i := range n {
		subject := fmt.Sprint("versive.interview.completed.s.i.msg_", i)
		if i%100 == 50 {
			subject = fmt.Sprint("older.", i)
		}
		if _, err := s.js.PublishAsync(subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	embeddedtest.Receive(t, "all are stored", s.js.PublishAsyncComplete())
	for _, sequence := range []uint64{1, 5, 2000} {
		if err := stream.DeleteMsg(t.Context(), sequence); err != nil {
			t.Fatal(err)
		}
	}
	for i, sel := range []subscribe.Selection{{}, {Subject: ">"}, {First: 2, Last: n - 1}, {Filter: schema.Filter{StudyID: "s"}, Last: n - 1}} {
		read := 0
		for m, err := range s.source.Range(t.Context(), sel) {
			if err != nil {
				t.Fatalf("%+v: %v", sel, err)
			}
			if read++; read%300 == 0 {
				for _, sequence := range []uint64{m.Sequence - 10, m.Sequence + 90} {
					err := stream.DeleteMsg(t.Context(), sequence)
					if api, ok := errors.AsType[*jetstream.APIError](err); err != nil && (!ok || api.ErrorCode != 10057) { // it was deleted before
						t.Fatal(err)
					}
				}
				if _, err := s.js.Publish(t.Context(), fmt.Sprintf("versive.interview.completed.s.i.new_%d_%d", i, m.Sequence), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if read < n*9/10 {
			t.Errorf("%+v: read %d of %d", sel, read, n)
		}
	}
}

// Although no consumer gets past a block that cannot be read at all, a range does that reads
// everything. Others end there.
func TestRangePassesUnreadableBlocks(t *testing.T) {
	t.Parallel()
	s := damaged(t, 30, 900<<10, func(msgs string) { // the broker reads the last blocks before it starts
		for _, name := range []string{"1.blk", "2.blk"} {
			block := filepath.Join(msgs, name)
			if err := os.Remove(block); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(block, 0o700); err != nil { // as unreadable as a bad sector
				t.Fatal(err)
			}
		}
	})
	got, err := readAll(t, s.source, subscribe.Selection{HeadersOnly: true, Subject: ">"})
	if unreadable, ok := errors.AsType[*subscribe.UnreadableError](err); !ok || unreadable.Sequences.String() != "1-18" || len(got) != 14 || got[0] != 19 {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = readAll(t, s.source, subscribe.Selection{HeadersOnly: true})
	if unreadable, ok := errors.AsType[*subscribe.UnreadableError](err); !ok || unreadable.Sequences.String() != "1-18" || len(got) > 0 {
		t.Errorf("with a filter: got %v, %v", got, err)
	}
}
