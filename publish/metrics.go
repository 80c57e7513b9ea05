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
	p         *Publisher
	conn      atomic.Pointer[nats.Conn] // nil before the first connection
	streams   [schema.Kinds]atomic.Pointer[jetstream.StreamInfo]
	backlogs  [schema.Kinds]backlog // of the quarantine and the dead letters
	consumers atomic.Pointer[consumerStates]
	commits   prometheus.Histogram
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

// Describe implements [prometheus.Collector]. It describes nothing, because the streams
// are not known yet.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	// send sends a metric with a label, given the label's name and value, or without.
	send := func(kind prometheus.ValueType, name, help string, value float64, label ...string) {
		n := len(label) / 2
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("versive_ingress_"+name, help, label[:n], nil), kind, value, label[n:]...)
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	connected, waiting := 0, 0
	if nc := m.conn.Load(); nc != nil && nc.IsConnected() {
		connected = 1
	}
	for _, c := range m.p.committers {
		waiting += len(c.queue)
	}
	m.commits.Collect(ch)
	send(gauge, "broker_connected", "Whether the broker is connected: 1 or 0.", float64(connected))
	send(gauge, "publish_queue_events", "Events that wait for a commit.", float64(waiting))
	if n := m.backlogs[schema.KindQuarantine].count.Load(); n >= 0 {
		send(gauge, "quarantine_events", "Webhooks in the quarantine, which are authentic but could not be parsed and wait for an operator. Absent while unknown.", float64(n))
	}
	if n := m.backlogs[schema.KindDead].count.Load(); n >= 0 {
		send(gauge, "dead_letter_events", "Dead-lettered events and erasures, which wait for an operator. Absent while unknown.", float64(n))
	}
	for kind := range m.streams {
		info := m.streams[kind].Load()
		if info == nil { // the first consumer to need it creates the stream of dead letters
			continue
		}
		name, state := info.Config.Name, info.State
		send(gauge, "stream_messages", "Messages in the stream, including tombstones.", float64(state.Msgs), "stream", name)
		send(gauge, "stream_bytes", "Bytes in the stream.", float64(state.Bytes), "stream", name)
		send(gauge, "stream_max_bytes", "Limit of the stream in bytes; 0 if it has none of its own.", float64(max(0, info.Config.MaxBytes)), "stream", name)
		if state.Msgs > 0 {
			send(gauge, "stream_oldest_event_timestamp_seconds", "When the oldest message in the stream was stored.", seconds(state.FirstTime), "stream", name)
		}
		if kind < len(m.p.lastFailed) {
			send(gauge, "stream_last_failure_timestamp_seconds", "When the last message for the stream could not be stored; 0 if it was stored.", seconds(time.UnixMilli(m.p.lastFailed[kind].Load())), "stream", name)
		}
		if state.LastSeq > 0 {
			last := seconds(state.LastTime)
			if kind < len(m.p.lastStored) { // the state is up to a second old
				last = max(last, seconds(time.UnixMilli(m.p.lastStored[kind].Load())))
			}
			send(gauge, "stream_last_event_timestamp_seconds", "When the last message in the stream was stored.", last, "stream", name)
		}
	}
	if c := m.consumers.Load(); c != nil && time.Since(c.read) < 2*maxPause {
		for _, state := range c.list {
			send(gauge, "consumer_pending_events", "Events that the durable consumer has not received. Absent while unknown.", float64(state.NumPending), "consumer", state.Name)
			send(gauge, "consumer_ack_pending_events", "Events that the durable consumer has received and not acknowledged.", float64(state.NumAckPending), "consumer", state.Name)
			send(gauge, "consumer_oldest_pending_seconds", "Age of the oldest event that the durable consumer has not acknowledged; 0 if there is none.", state.Lag().Seconds(), "consumer", state.Name)
			send(gauge, "consumer_stalled_seconds", "For how long the durable consumer has acknowledged nothing although it could have; 0 if there is nothing to acknowledge, or if it is paused.", state.Stalled().Seconds(), "consumer", state.Name)
		}
	}

	// The counters of losses persist across restarts.
	m.p.marks.mu.Lock()
	defer m.p.marks.mu.Unlock()
	for name, mark := range m.p.marks.content.Streams {
		lost, recreated := m.p.marks.unacknowledged(name)
		send(counter, "stream_lost_events_total", "Messages that the stream had and no longer returns, although they were not erased.", float64(mark.Lost), "stream", name)
		send(counter, "stream_lost_events_acknowledged_total", "Lost messages that were acknowledged with audit --acknowledge.", float64(mark.Lost-lost), "stream", name)
		send(counter, "stream_recreated_total", "How often the stream was deleted or recreated.", float64(mark.Recreations), "stream", name)
		send(counter, "stream_recreated_acknowledged_total", "Recreations of the stream that were acknowledged with audit --acknowledge.", float64(mark.Recreations-recreated), "stream", name)
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
