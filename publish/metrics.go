package publish

import (
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"versive-ingress/schema"
)

// metrics is the [prometheus.Collector] of a Publisher. It reports the state of the
// last check and sends no requests, so that a scrape never waits. While the broker
// is unreachable, it reports the last known state of the streams.
type metrics struct {
	conn     atomic.Pointer[nats.Conn] // nil before the first connection
	streams  [3]atomic.Pointer[jetstream.StreamInfo]
	backlogs [3]backlog // of the quarantine and the dead letters
	commits  prometheus.Histogram
	p        *Publisher
}

var (
	connectedDesc = newDesc("broker_connected", "Whether the broker is connected: 1 or 0.")
	queueDesc     = newDesc("publish_queue_events", "Events that wait for a commit.")
	messagesDesc  = newDesc("stream_messages", "Messages in the stream, including tombstones.", "stream")
	bytesDesc     = newDesc("stream_bytes", "Bytes in the stream.", "stream")
	maxBytesDesc  = newDesc("stream_max_bytes", "Limit of the stream in bytes; 0 if it has none of its own.", "stream")
	oldestDesc    = newDesc("stream_oldest_event_timestamp_seconds", "When the oldest message in the stream was stored.", "stream")
	lastDesc      = newDesc("stream_last_event_timestamp_seconds", "When the last message in the stream was stored.", "stream")

	lostDesc              = newDesc("stream_lost_events_total", "Messages that the stream had and no longer returns, although they were not erased.", "stream")
	lostAcknowledgedDesc  = newDesc("stream_lost_events_acknowledged_total", "Lost messages that were acknowledged with audit --acknowledge.", "stream")
	recreatedDesc         = newDesc("stream_recreated_total", "How often the stream was deleted or recreated.", "stream")
	recreatedAcknowledged = newDesc("stream_recreated_acknowledged_total", "Recreations of the stream that were acknowledged with audit --acknowledge.", "stream")

	backlogDescs = [...]*prometheus.Desc{
		schema.KindQuarantine: newDesc("quarantine_events", "Webhooks in the quarantine, which are authentic but could not be parsed and wait for an operator. Absent while unknown."),
		schema.KindDead:       newDesc("dead_letter_events", "Dead-lettered events and erasures, which wait for an operator. Absent while unknown."),
	}
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("versive_ingress_"+name, help, labels, nil)
}

func newMetrics(p *Publisher) *metrics {
	m := &metrics{p: p, commits: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "versive_ingress_publish_batch_events",
		Help:    "Events stored by one commit.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 9), // 1 to maxBatchLen
	})}
	for kind := range m.backlogs {
		m.backlogs[kind].count.Store(-1)
	}
	return m
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range [...]*prometheus.Desc{
		connectedDesc, queueDesc, messagesDesc, bytesDesc, maxBytesDesc, oldestDesc, lastDesc, lostDesc, lostAcknowledgedDesc,
		recreatedDesc, recreatedAcknowledged, backlogDescs[schema.KindQuarantine], backlogDescs[schema.KindDead],
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
	waiting := 0
	for _, c := range m.p.committers {
		waiting += len(c.queue)
	}
	gauge(queueDesc, float64(waiting))
	m.commits.Collect(ch)
	m.collectLosses(ch)
	for kind, desc := range backlogDescs {
		if n := m.backlogs[kind].count.Load(); desc != nil && n >= 0 {
			gauge(desc, float64(n))
		}
	}
	for kind := range m.streams {
		info := m.streams[kind].Load()
		if info == nil { // the first consumer to need it creates the stream of dead letters
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

// collectLosses collects the counters of losses, which persist across restarts.
func (m *metrics) collectLosses(ch chan<- prometheus.Metric) {
	m.p.marks.mu.Lock()
	defer m.p.marks.mu.Unlock()
	for name, of := range m.p.marks.content.Streams {
		var lost, recreated uint64 // unacknowledged
		for _, l := range m.p.marks.content.Losses {
			if l.Stream != name {
				continue
			}
			if lost += l.Sequences.Len(); l.Problem == Recreated {
				recreated++
			}
		}
		for desc, value := range map[*prometheus.Desc]uint64{
			lostDesc: of.Lost, lostAcknowledgedDesc: of.Lost - lost, recreatedDesc: of.Recreations, recreatedAcknowledged: of.Recreations - recreated,
		} {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), name)
		}
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
