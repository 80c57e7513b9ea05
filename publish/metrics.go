package publish

import (
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/schema"
)

// metrics tells Prometheus of the broker and its streams. It reads what the
// monitor has seen last and asks the broker nothing, so that a scrape waits for
// nobody. While the broker is away, the streams are told as they were.
type metrics struct {
	conn    atomic.Pointer[nats.Conn] // nil until there was one
	streams [3]atomic.Pointer[jetstream.StreamInfo]
	depths  [3]depth     // of the quarantine and of the dead letters
	waiting atomic.Int64 // messages that wait for a commit
	commits prometheus.Histogram
	marks   *marks
}

var (
	connectedDesc = newDesc("broker_connected", "Whether there is a connection to the broker: 1 or 0.")
	queueDesc     = newDesc("publish_queue_events", "Events that wait for a commit.")
	messagesDesc  = newDesc("stream_messages", "Messages in the stream, tombstones included.", "stream")
	bytesDesc     = newDesc("stream_bytes", "Bytes in the stream.", "stream")
	maxBytesDesc  = newDesc("stream_max_bytes", "Limit of the stream in bytes; 0: none of its own.", "stream")
	oldestDesc    = newDesc("stream_oldest_event_timestamp_seconds", "When the oldest message in the stream was stored.", "stream")
	lastDesc      = newDesc("stream_last_event_timestamp_seconds", "When the last message was stored.", "stream")

	lostDesc              = newDesc("stream_lost_events_total", "Messages that the stream had and does not return any more, though nobody has erased them.", "stream")
	lostAcknowledgedDesc  = newDesc("stream_lost_events_acknowledged_total", "Those of them that were acknowledged by audit --acknowledge.", "stream")
	recreatedDesc         = newDesc("stream_recreated_total", "How often the stream was deleted, or found to be another one.", "stream")
	recreatedAcknowledged = newDesc("stream_recreated_acknowledged_total", "How many of these were acknowledged by audit --acknowledge.", "stream")

	depthDescs = [...]*prometheus.Desc{
		schema.KindQuarantine: newDesc("quarantine_events", "Webhooks in the quarantine: authentic, not understood, kept for somebody to look at. Absent while that is not known."),
		schema.KindDead:       newDesc("dead_letter_events", "Events and erasures that a consumer has given up on, kept for somebody to look at. Absent while that is not known."),
	}
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("versive_ingress_"+name, help, labels, nil)
}

func newMetrics(marks *marks) *metrics {
	m := &metrics{marks: marks, commits: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "versive_ingress_publish_batch_events",
		Help:    "Events that were stored by one commit.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 9), // 1 to maxBatchLen
	})}
	for kind := range m.depths {
		m.depths[kind].count.Store(-1)
	}
	return m
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range [...]*prometheus.Desc{
		connectedDesc, queueDesc, messagesDesc, bytesDesc, maxBytesDesc, oldestDesc, lastDesc, lostDesc, lostAcknowledgedDesc,
		recreatedDesc, recreatedAcknowledged, depthDescs[schema.KindQuarantine], depthDescs[schema.KindDead],
	} {
		ch <- desc
	}
	m.commits.Describe(ch)
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	connected := 0.0
	if nc := m.conn.Load(); nc != nil && nc.IsConnected() {
		connected = 1
	}
	gauge(connectedDesc, connected)
	gauge(queueDesc, float64(m.waiting.Load()))
	m.commits.Collect(ch)
	m.collectLosses(ch)
	for kind, desc := range depthDescs {
		if n := m.depths[kind].count.Load(); desc != nil && n >= 0 {
			gauge(desc, float64(n))
		}
	}
	for kind := range m.streams {
		info := m.streams[kind].Load()
		if info == nil { // the dead letters' is created by the first consumer
			continue
		}
		name := info.Config.Name
		gauge(messagesDesc, float64(info.State.Msgs), name)
		gauge(bytesDesc, float64(info.State.Bytes), name)
		gauge(maxBytesDesc, float64(max(0, info.Config.MaxBytes)), name)
		if info.State.Msgs > 0 {
			gauge(oldestDesc, seconds(info.State.FirstTime), name)
		}
		if info.State.LastSeq > 0 {
			gauge(lastDesc, seconds(info.State.LastTime), name)
		}
	}
}

// collectLosses exposes the counters of the losses, which outlive the process.
func (m *metrics) collectLosses(ch chan<- prometheus.Metric) {
	m.marks.mu.Lock()
	defer m.marks.mu.Unlock()
	for name, of := range m.marks.content.Streams {
		var lost, recreated uint64 // that are not acknowledged
		for _, l := range m.marks.content.Losses {
			if l.Stream != name {
				continue
			}
			if lost += l.Sequences.Len(); l.Problem == Recreated {
				recreated++
			}
		}
		for desc, value := range map[*prometheus.Desc]uint64{
			lostDesc: of.Lost, lostAcknowledgedDesc: of.Lost - lost, recreatedDesc: of.Anew, recreatedAcknowledged: of.Anew - recreated,
		} {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), name)
		}
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
