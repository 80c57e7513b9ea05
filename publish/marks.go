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

	"versive-ingress/schema"
)

// markTimeout bounds one look at a stream.
const markTimeout = 2 * time.Second

// marks keeps the high-water marks of the streams and reports what they lose.
// No webhook waits for it.
type marks struct {
	dir string // of the files; "" keeps the marks in memory
	log *slog.Logger
	// acked is, by Kind, the highest sequence that was acknowledged.
	acked [3]atomic.Uint64

	mu           sync.Mutex
	content      marksContent // guarded by mu
	acknowledged acknowledged // guarded by mu

	// Of the one goroutine that looks.
	recent    [3][]uint64 // by Kind, the stream's last sequences at the last looks, the oldest first
	explainAt time.Time   // not before: the last search for tombstones has failed
	written   []byte      // what is in the file
	problem   string      // with the files, if it was logged
}

// marksContent is the content of marksFile.
type marksContent struct {
	Streams map[string]*mark `json:"streams"`
	Number  uint64           `json:"number"` // of the last loss
	Losses  []Loss           `json:"losses"` // that are not acknowledged, in the order of their numbers
}

// openMarks reads the marks of an earlier run. What is not readable never keeps
// the ingress from starting.
func openMarks(dir string, log *slog.Logger) *marks {
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
		log.Error("high-water marks cannot be read; beginning new ones: what the streams have lost until now cannot be seen", "error", err)
	}
	m.readAcknowledged()
	m.content.Number = max(m.content.Number, m.acknowledged.Number)
	return m
}

// ack takes note of a sequence that the broker has acknowledged.
func (m *marks) ack(kind schema.Kind, sequence uint64) {
	for acked := &m.acked[kind]; ; {
		high := acked.Load()
		if sequence <= high || acked.CompareAndSwap(high, sequence) {
			return
		}
	}
}

// watchMarks looks at the streams until ctx ends.
func (p *Publisher) watchMarks(ctx context.Context) {
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.lookAtMarks(ctx)
		p.explainDeletions(ctx)
	}
}

// lookAtMarks compares all streams with their marks and saves these.
func (p *Publisher) lookAtMarks(ctx context.Context) {
	p.marks.readAcknowledged()
	for kind := range schema.KindDead + 1 {
		if err := p.lookAtMark(ctx, kind); err != nil && ctx.Err() == nil {
			p.cfg.Logger.Debug("high-water mark is not up to date", "stream", kind.Stream(p.cfg.Stream), "error", err)
		}
	}
	p.marks.save()
}

func (p *Publisher) lookAtMark(ctx context.Context, kind schema.Kind) error {
	name := kind.Stream(p.cfg.Stream)
	if kind == schema.KindDead && p.metrics.streams[kind].Load() == nil && !p.marks.has(name) {
		return nil // no consumer has given up on anything, or we may not see it
	}
	asking, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	seen := sighting{kind: kind, acked: p.marks.acked[kind].Load()}
	stream, err := p.js.Stream(asking, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && kind == schema.KindDead {
		p.marks.forget(name)
	}
	if err != nil { // the others are created anew by check
		return err
	}
	seen.info = stream.CachedInfo()
	if !hasMajority(seen.info.Cluster) {
		return errors.New("its leader may be cut off from the others")
	}
	if p.marks.needsDetails(kind, seen.info) {
		if seen.info, err = stream.Info(asking, jetstream.WithDeletedDetails(true)); err != nil {
			return err
		}
		seen.detailed = true
	}
	seen.quiet = p.isQuiet(kind, seen.info.State.LastSeq)
	p.marks.compare(seen)
	return nil
}

// isQuiet reports whether the last sequence of a stream is durable though
// nothing has acknowledged it to us: it has not changed since the last look, and
// no commit of ours is running or may have failed half-way.
func (p *Publisher) isQuiet(kind schema.Kind, last uint64) bool {
	recent := p.marks.recent[kind]
	if len(recent) == 0 || recent[len(recent)-1] != last || p.troubled.Load() != nil {
		return false
	}
	return kind == schema.KindDead || p.committers[kind].hasSettled()
}

// hasMajority reports whether most replicas of a stream are up to date with the
// leader that has answered. One that is cut off from the others does not have
// what they have acknowledged since.
func hasMajority(cluster *jetstream.ClusterInfo) bool {
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

func (m *marks) has(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.content.Streams[name] != nil
}

func (m *marks) needsDetails(kind schema.Kind, info *jetstream.StreamInfo) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.content.Streams[info.Config.Name].needsDetails(kind, info)
}

// compare reports what a stream has lost since it was last seen.
func (m *marks) compare(seen sighting) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := seen.info.Config.Name
	was := m.mark(name)
	recent := &m.recent[seen.kind]
	if len(*recent) == 0 && !was.Created.IsZero() {
		*recent = append(*recent, was.Last) // by an earlier run
	}
	lost := was.compare(seen)
	for _, problem := range [...]Problem{Recreated, WentBack, Removed} {
		if sequences, ok := lost[problem]; ok {
			m.report(name, problem, sequences)
		}
	}
	if len(lost) > 0 {
		m.acked[seen.kind].Store(0)
		*recent = nil
	}
	*recent = append(*recent, seen.info.State.LastSeq)
	*recent = (*recent)[max(0, len(*recent)-recentLooks):]
}

// mark must be called with m.mu held.
func (m *marks) mark(name string) *mark {
	if m.content.Streams[name] == nil {
		m.content.Streams[name] = &mark{}
	}
	return m.content.Streams[name]
}

// forget reports that a stream is gone which is not created anew.
func (m *marks) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if was := m.content.Streams[name]; was != nil && !was.Created.IsZero() {
		m.report(name, Recreated, was.held())
		*was = mark{Lost: was.Lost, Anew: was.Anew}
	}
}

// report must be called with m.mu held.
func (m *marks) report(name string, problem Problem, sequences schema.Sequences) {
	of := m.mark(name)
	of.Lost += sequences.Len()
	if problem == Recreated {
		of.Anew++
	}
	m.content.Number++
	loss := Loss{m.content.Number, time.Now().UTC(), name, problem, sequences}
	if m.acknowledged.covers(loss) {
		return
	}
	m.content.Losses = append(m.content.Losses, loss)
	m.log.Error("stream has lost messages: it "+problem.String(), "stream", name, "problem", string(problem),
		"messages", sequences.Len(), "sequences", sequences.String(), "remedy", "versive-ingress audit")
}

// ReportUnreadable reports messages that a stream counts and cannot return,
// unless they were reported before.
func (p *Publisher) ReportUnreadable(kind schema.Kind, sequences schema.Sequences) {
	m, name := p.marks, kind.Stream(p.cfg.Stream)
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.content.Streams[name]
	if of == nil || of.Created.IsZero() {
		return // not seen yet; the next pass over the stream finds them again
	}
	if sequences = sequences.Minus(of.Unreadable); sequences.Len() > 0 {
		of.Unreadable = of.Unreadable.Union(sequences)
		m.report(name, Unreadable, sequences)
	}
}

// readAcknowledged drops the losses that were acknowledged.
func (m *marks) readAcknowledged() {
	if m.dir == "" {
		return
	}
	var ack acknowledged
	if err := readJSON(filepath.Join(m.dir, acknowledgedFile), &ack); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			m.complain("acknowledgements of losses cannot be read", err)
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acknowledged = ack
	m.content.Losses = slices.DeleteFunc(m.content.Losses, func(l Loss) bool {
		if ack.covers(l) {
			m.log.Info("loss was acknowledged", "stream", l.Stream, "problem", string(l.Problem), "messages", l.Sequences.Len())
			return true
		}
		return false
	})
}

// save writes the marks to the file, if they have changed.
func (m *marks) save() {
	if m.dir == "" {
		return
	}
	m.mu.Lock()
	text, err := json.MarshalIndent(m.content, "", "  ")
	m.mu.Unlock()
	if err == nil && !bytes.Equal(text, m.written) {
		if err = writeFile(filepath.Join(m.dir, marksFile), text); err == nil {
			m.written, m.problem = text, ""
		}
	}
	if err != nil {
		m.complain("high-water marks cannot be saved; a loss may go unnoticed after a restart", err)
	}
}

// complain logs a problem with the files when it begins.
func (m *marks) complain(what string, err error) {
	if m.problem != err.Error() {
		m.problem = err.Error()
		m.log.Error(what, "error", err)
	}
}
