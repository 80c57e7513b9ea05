package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/publish/access"
	"versive-ingress/schema"
)

// High-water marks reveal that a stream has lost messages; a loss is reported once, and
// stays until an operator acknowledges it.
//
//	ack              notices that a new message has the sequence of an older one
//	check            compares the state of each stream with its mark: messages that are
//	                 missing are lost; those missing from the event stream are suspects
//	explainDeletions finds the tombstone of a suspect, or else the message is lost
//	the scrubber     reports messages that cannot be read; see ReportUnreadable
//
// Each runs in a goroutine of its own, and so does sync, which reads what was acknowledged
// and writes the file of the marks. Open and Close check and sync only while these
// goroutines do not run. mu guards what they share. No other lock is taken and no request
// is sent while it is held. Publish takes it only after a loss.

type marks struct {
	dir string // of the files; "" keeps everything in memory
	log *slog.Logger
	// By Kind: acked is the highest acknowledged sequence; epoch counts the losses, each
	// of which resets acked.
	acked, epoch [schema.Kinds]atomic.Uint64

	mu           sync.Mutex
	reused       [schema.Kinds]schema.Sequences // by Kind, lost sequences that may have been reused, not yet reported; guarded by mu
	wentBackTo   [schema.Kinds]uint64           // by Kind, the first sequence of the last reported loss; guarded by mu
	content      marksContent                   // guarded by mu
	acknowledged acknowledged                   // guarded by mu

	last    [schema.Kinds]uint64 // by Kind, the last sequence of the stream at the last check; owned by check
	written []byte               // content of marksFile; owned by sync
}

const marksNotSaved = "high-water marks are not saved; a loss may go unnoticed after a restart"

// marksContent is the content of marksFile.
type marksContent struct {
	Streams map[string]*mark `json:"streams"`
	Number  uint64           `json:"number"` // of the last reported loss
	Losses  []Loss           `json:"losses"` // unacknowledged, in ascending order
}

// openMarks reads the marks of the previous run. It only logs errors, which do not
// keep the ingress from starting.
func openMarks(dir, stream string, log *slog.Logger) *marks {
	m := &marks{dir: dir, log: log, content: marksContent{Streams: make(map[string]*mark)}}
	if dir == "" {
		return m
	}
	var content marksContent
	err := readJSON(filepath.Join(dir, marksFile), &content)
	switch {
	case err == nil && content.Streams != nil:
		m.content = content
	case !errors.Is(err, fs.ErrNotExist):
		log.Error("high-water marks cannot be read; starting new ones: past losses go unnoticed", "error", err)
	}
	for kind := range schema.Kinds { // for ack, in case the first check fails
		if mark := m.content.Streams[kind.Stream(stream)]; mark != nil {
			m.acked[kind].Store(mark.Last)
		}
	}
	if m.acknowledged, err = readAcknowledged(dir); err != nil {
		log.Error("acknowledgements of losses cannot be read", "error", err)
	}
	m.content.Number = max(m.content.Number, m.acknowledged.Number)
	return m
}

// An ackState is the state of the acknowledgements at the start of a publish.
type ackState struct{ epoch, high uint64 }

func (m *marks) begin(kind schema.Kind) ackState {
	epoch := m.epoch[kind].Load()
	return ackState{epoch, m.acked[kind].Load()}
}

// ack records the receipt of a publish. The sequence of a new message is higher than
// any that was acknowledged before its publish began. Otherwise the stream has lost
// messages, which the next check may not notice if the stream has grown again.
func (m *marks) ack(kind schema.Kind, r schema.Receipt, began ackState) {
	if !r.Duplicate && r.Sequence <= began.high {
		m.mu.Lock()
		switch epoch := m.epoch[kind].Load(); {
		case epoch == began.epoch:
			m.reused[kind] = m.reused[kind].Union(schema.SequenceRange(r.Sequence, began.high))
		case epoch == began.epoch+1 && r.Sequence < m.wentBackTo[kind]: // the check took r for the message that it replaces, and reported those after it
			m.reused[kind] = m.reused[kind].Union(schema.SequenceRange(r.Sequence, min(began.high, m.wentBackTo[kind]-1)))
		}
		m.mu.Unlock()
	}
	if m.epoch[kind].Load() != began.epoch {
		return
	}
	for acked := &m.acked[kind]; ; {
		high := acked.Load()
		if r.Sequence <= high || acked.CompareAndSwap(high, r.Sequence) {
			return
		}
	}
}

// compareMark compares a stream with its mark. acked is the highest sequence that was
// acknowledged before the state of the stream was requested.
func (p *Publisher) compareMark(ctx context.Context, kind schema.Kind, stream jetstream.Stream, acked uint64) error {
	seen := observation{kind: kind, name: kind.Stream(p.cfg.Stream), info: stream.CachedInfo(), acked: acked}
	mark := p.marks.get(seen.name)
	if mark.needsDetails(seen) {
		var err error
		if seen.info, err = ReadState(ctx, stream, jetstream.WithDeletedDetails(true)); err != nil {
			return err
		}
	}
	cluster := seen.info.Cluster
	lacking := cluster != nil && len(cluster.Replicas) > 0 && seen.info.State.LastSeq < max(mark.Last, acked)
	switch {
	case !IsFromLeader(cluster, seen.info.Config.Replicas):
		return ErrNotLeader
	case !HasMajority(cluster):
		return errors.New("its leader may be partitioned from the other replicas")
	case p.mayBeStale(kind, lacking):
		return errors.New("its leader may have been replaced")
	}
	// The last sequence is durable even if it was not acknowledged to this publisher, if
	// it has not changed since the last check and no commit of this publisher is running
	// or may have failed halfway.
	seen.quiet = seen.info.State.LastSeq == p.marks.last[kind] && p.lastFailure.Load() == nil &&
		(kind == schema.KindDead || p.committers[kind].hasSettled())
	if seen.maxAge = seen.info.Config.MaxAge; p.cfg.Forwarded {
		seen.maxAge = p.cfg.MaxAge
	}
	p.marks.compare(seen)
	return nil
}

// mayBeStale reports whether the answer to a request for the state of a stream with replicas
// may come from a server that does not know yet that it was replaced: messages that were
// acknowledged are lacking, and have for less than staleLeader.
func (p *Publisher) mayBeStale(kind schema.Kind, lacking bool) bool {
	since := &p.lacksSince[kind]
	switch {
	case !lacking:
		*since = time.Time{}
	case since.IsZero():
		*since = time.Now()
	}
	return lacking && time.Since(*since) < staleLeader
}

// HasMajority reports whether most replicas of a stream are current, as its leader sees
// them. A leader that is partitioned from them lacks messages that they have acknowledged
// since.
func HasMajority(cluster *jetstream.ClusterInfo) bool {
	if cluster == nil {
		return true
	}
	current := 1
	for _, peer := range cluster.Replicas {
		if peer.Current && !peer.Offline {
			current++
		}
	}
	return 2*current > len(cluster.Replicas)+1
}

// get returns a copy of the mark of a stream, or a zero one.
func (m *marks) get(name string) mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mark := m.content.Streams[name]; mark != nil {
		return *mark
	}
	return mark{}
}

// compare reports the losses of a stream since the last check.
func (m *marks) compare(seen observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen.reused, m.reused[seen.kind] = m.reused[seen.kind], schema.Sequences{}
	lost := m.mark(seen.name).compare(seen)
	for _, problem := range [...]Problem{Recreated, WentBack, Removed} {
		if sequences, ok := lost[problem]; ok {
			m.report(seen.name, problem, sequences)
		}
	}
	if len(lost) > 0 {
		m.wentBackTo[seen.kind] = lost[WentBack].First()
		m.acked[seen.kind].Store(0)
		m.epoch[seen.kind].Add(1)
	}
	m.last[seen.kind] = seen.info.State.LastSeq
}

// mark must be called with m.mu held.
func (m *marks) mark(name string) *mark {
	if m.content.Streams[name] == nil {
		m.content.Streams[name] = &mark{}
	}
	return m.content.Streams[name]
}

// report must be called with m.mu held.
func (m *marks) report(name string, problem Problem, sequences schema.Sequences) {
	mark := m.mark(name)
	mark.Lost += sequences.Len()
	if problem == Recreated {
		mark.Recreations++
	}
	m.content.Number++
	loss := Loss{m.content.Number, time.Now().UTC(), name, problem, sequences}
	if m.acknowledged.covers(loss, mark.found()) {
		return
	}
	m.content.Losses = append(m.content.Losses, loss)
	m.log.Error("stream has lost messages: it "+problem.String(), "stream", name, "problem", string(problem),
		"messages", sequences.Len(), "sequences", sequences.String(), "remedy", "versive-ingress audit")
}

// unacknowledged returns the messages of a stream and its recreations that were reported
// and not acknowledged. It must be called with m.mu held.
func (m *marks) unacknowledged(name string) (lost, recreated uint64) {
	for _, l := range m.content.Losses {
		if l.Stream != name {
			continue
		}
		if lost += l.Sequences.Len(); l.Problem == Recreated {
			recreated++
		}
	}
	return lost, recreated
}

// ReportUnreadable reports messages that a stream counts but cannot return, unless
// they were reported before.
func (p *Publisher) ReportUnreadable(kind schema.Kind, sequences schema.Sequences) {
	m, name := p.marks, kind.Stream(p.cfg.Stream)
	m.mu.Lock()
	defer m.mu.Unlock()
	mark := m.content.Streams[name]
	if mark == nil || mark.Created.IsZero() {
		return // not checked yet; the caller finds the messages again in its next pass
	}
	if sequences = sequences.Minus(mark.Unreadable); sequences.Len() > 0 {
		mark.Unreadable = mark.Unreadable.Union(sequences)
		m.report(name, Unreadable, sequences)
	}
}

// sync removes losses that were acknowledged, and writes the marks to their file if they
// have changed.
func (m *marks) sync(context.Context) error {
	if m.dir == "" {
		return nil
	}
	ack, err := readAcknowledged(m.dir)
	m.mu.Lock()
	if err == nil {
		m.acknowledged = ack
		m.content.Losses = slices.DeleteFunc(m.content.Losses, func(l Loss) bool {
			if ack.covers(l, m.mark(l.Stream).found()) {
				m.log.Info("loss was acknowledged", "stream", l.Stream, "problem", string(l.Problem), "messages", l.Sequences.Len())
				return true
			}
			return false
		})
	}
	text, err2 := json.MarshalIndent(m.content, "", "  ")
	m.mu.Unlock()
	if err2 == nil && !bytes.Equal(text, m.written) {
		if err2 = access.Explain(access.Replace(filepath.Join(m.dir, marksFile), append(text, '\n')), m.dir); err2 == nil {
			m.written = text
		}
	}
	return errors.Join(err, err2)
}
