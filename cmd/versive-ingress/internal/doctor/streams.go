package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/publish/access"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func (d *doctor) checkEvents(ctx context.Context, r *Result) {
	if d.events = d.checkStream(ctx, r, schema.KindEvent); d.events == nil {
		return
	}
	d.checkForeign(ctx, r)
	if d.Silence == 0 {
		return
	}
	state, silence := d.events.CachedInfo().State, "ever"
	if state.LastSeq > 0 {
		last := d.Now().Sub(state.LastTime)
		if last <= d.Silence {
			return
		}
		silence = "for " + terminal.Age(last)
	}
	r.add(Unknown, "silent", "no event was stored "+silence, fmt.Sprintf("--silence is %s: either no interview has ended, or webhooks do not arrive", d.Silence),
		"versive-ingress doctor --probe --url https://…  # the public URL; then see the deliveries on the endpoint's page")
}

// maxSubjects is how many subjects, one for each event, are listed.
const maxSubjects = 100_000

// checkForeign reports messages that no ingress has published.
func (d *doctor) checkForeign(ctx context.Context, r *Result) {
	if d.events.CachedInfo().State.NumSubjects > maxSubjects {
		return
	}
	info, err := d.events.Info(ctx, jetstream.WithSubjectFilter(broker.AnySubject))
	if err != nil {
		r.unanswered("the subjects of stream "+d.Settings.Stream, err, "nats stream subjects "+d.Settings.Stream)
		return
	}
	var foreign []string
	for subject := range info.State.Subjects {
		if _, err := schema.ParseSubject(subject); err != nil {
			foreign = append(foreign, subject)
		}
	}
	d.addForeign(r, schema.KindEvent, foreign)
}

// addForeign reports the subjects of messages in a stream that no ingress has published.
func (d *doctor) addForeign(r *Result, kind schema.Kind, subjects []string) {
	if len(subjects) > 0 {
		name := kind.Stream(d.Settings.Stream)
		r.add(Warning, "foreign_messages", fmt.Sprintf("stream %s has messages on %s that no ingress has published", name, terminal.Plural(len(subjects), "subject", "subjects")),
			"their signatures were not verified; consumers dead-letter them, and commands skip them or end at them",
			fmt.Sprintf("nats stream view %s --subject '%s'  # then: nats stream rmm, which counts as a loss until it is acknowledged; and deny others to publish to %s.>", name, slices.Min(subjects), kind.Prefix(d.Settings.Subject)))
	}
}

func (d *doctor) checkQuarantine(ctx context.Context, r *Result) {
	n, oldest := d.checkBacklog(ctx, r, schema.KindQuarantine)
	r.when(n > 0, Warning, "quarantine_not_empty", fmt.Sprintf("%s authentic but not understood, the oldest for %s", terminal.Plural(n, "webhook is", "webhooks are"), terminal.Age(oldest)),
		"they were answered 202, and consumers do not receive them", "versive-ingress quarantine list")
}

func (d *doctor) checkDeadLetters(ctx context.Context, r *Result) {
	n, oldest := d.checkBacklog(ctx, r, schema.KindDead)
	r.when(n > 0, Warning, "dead_letters", fmt.Sprintf("consumers have dead-lettered %s, the oldest %s ago", terminal.Plural(n, "message", "messages"), terminal.Age(oldest)),
		"a downstream service lacks an event, or has not erased an interview",
		"versive-ingress deadletters list")
}

// checkBacklog checks a stream whose messages wait for an operator. It returns their
// number, and the age of the oldest.
func (d *doctor) checkBacklog(ctx context.Context, r *Result, kind schema.Kind) (n int, oldest time.Duration) {
	if d.checkStream(ctx, r, kind) == nil {
		return 0, 0
	}
	name := kind.Stream(d.Settings.Stream)
	var foreign []string
	for m, err := range d.broker.Source.Range(ctx, subscribe.Selection{Kind: kind, Subject: broker.AnySubject, HeadersOnly: true}) {
		if err != nil {
			r.unanswered("stream "+name, err, "nats stream info "+name)
			return 0, 0
		}
		switch {
		case m.Header.Get(schema.HeaderReason) != "":
			oldest = max(oldest, d.Now().Sub(m.Time))
			n++
		case !schema.IsTombstone(m.Header) && schema.RequeuedLetter(m.Header) == 0:
			foreign = append(foreign, m.Subject)
		}
	}
	d.addForeign(r, kind, foreign)
	r.Seen = fmt.Sprintf("%d in %s", n, name)
	return n, oldest
}

// checkStream checks the stream of a kind of message against the promise. It returns
// nil if the stream cannot be looked up.
func (d *doctor) checkStream(ctx context.Context, r *Result, kind schema.Kind) jetstream.Stream {
	name := kind.Stream(d.Settings.Stream)
	stream, err := d.broker.JetStream.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound) && kind == schema.KindDead:
		r.Seen = "none: no consumer has dead-lettered anything"
		return nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		r.add(Unknown, "stream_missing", "there is no stream "+name,
			"the ingress creates it when it starts; if it is running, its INGRESS_STREAM differs from that of these settings", "versive-ingress serve")
		return nil
	case err != nil:
		r.unanswered("stream "+name, err, "nats stream info "+name)
		return nil
	}
	info := stream.CachedInfo()
	c, s := info.Config, info.State
	r.Seen = fmt.Sprintf("%d in %s", s.Msgs, name)
	d.checkConfig(r, kind, info)
	if c.Discard == jetstream.DiscardNew { // another one never rejects a message, which checkConfig reports
		r.limit("stream_full", "stream "+name, "bytes", s.Bytes, c.MaxBytes, fmt.Sprintf("nats stream edit %s --max-bytes %d", name, max(2*c.MaxBytes, fullDisk)))
		r.limit("stream_full", "stream "+name, "messages", s.Msgs, c.MaxMsgs, fmt.Sprintf("nats stream edit %s --max-msgs %d", name, 2*c.MaxMsgs))
	}
	if info.Cluster == nil {
		return stream
	}
	if !publish.IsFromLeader(info.Cluster, c.Replicas) {
		r.unanswered("the replicas of stream "+name, publish.ErrNotLeader, "nats stream info "+name)
		return stream
	}
	d.checkReplicas(r, name, info.Cluster)
	return stream
}

// checkReplicas reports the replicas of a stream, besides the leader, that are away, and what
// the others can still bear.
func (d *doctor) checkReplicas(r *Result, stream string, cluster *jetstream.ClusterInfo) {
	var away []string
	for _, peer := range cluster.Replicas { // under load all of them lag a little
		// A server that was killed is offline a minute later only, and Active is 0 if this leader never heard from it.
		unseen := peer.Active == 0 && !peer.Current
		if peer.Offline || unseen || peer.Active > 10*time.Second || peer.Lag > 1000 {
			away = append(away, peer.Name)
		}
	}
	total := len(cluster.Replicas) + 1 // the leader is not listed
	current := total - len(away)
	for _, name := range away {
		why := fmt.Sprintf("new events are on %d of %d disks; ", current, total)
		if spare := current - total/2 - 1; spare > 0 {
			why += terminal.Plural(spare, "more server", "more servers") + " may fail"
		} else {
			why += "if one more server fails, webhooks are answered 503 until it is back, and no event is lost unless all of these disks are"
		}
		remedy := fmt.Sprintf("nats stream info %s  # after you have started that server, or replaced it", stream)
		if !d.external() {
			remedy = fmt.Sprintf("sudo systemctl start versive-ingress  # on %s; with an empty data directory if its disk is lost", name)
		}
		r.add(Warning, "replica_behind", fmt.Sprintf("the replica of stream %s on %s is offline or lags", stream, name), why, remedy)
	}
}

// checkConfig reports the drifts of a stream, and what package publish cannot know:
// the sender's schedule, the largest body and the broker.
func (d *doctor) checkConfig(r *Result, kind schema.Kind, info *jetstream.StreamInfo) {
	c, s := info.Config, d.Settings
	for _, drift := range s.Streams().Inspect(kind, c) {
		level, id := Warning, "stream_"+drift.Name
		switch {
		case kind == schema.KindDead && drift.Name == "replicas": // an operator may have created it with one
			drift.Why = "dead letters are lost with the disks that they are on, and consumers cannot write them while these servers are away"
		case kind == schema.KindDead && drift.Action != publish.Reject && (drift.Name != "max_age" || drift.Action != publish.Tolerate):
			continue // consumers create that stream
		case kind == schema.KindDead && drift.Name != "max_age" && drift.Name != "owner":
			drift.Remedy = fmt.Sprintf("nats stream rm %s  # once its messages are settled: the next dead letter creates it anew", c.Name)
		case drift.Action == publish.Reject, drift.Name == "subjects":
			level = Problem
		case drift.Name == "window_limited" && c.MaxAge < senderSchedule:
			level, id = Problem, "age_short"
		}
		r.add(level, id, fmt.Sprintf("stream %s %s", c.Name, drift.Problem), drift.Why, drift.Remedy)
	}
	r.when(publish.HasOneReplica(d.broker.NC, info) && s.Replicas == 1, Warning, "one_replica", fmt.Sprintf("stream %s has one replica on a cluster", c.Name),
		"its events are lost with that server's disk, and unavailable while the server is", "export INGRESS_REPLICAS=3  # and restart")
	if room := max(config.BodyRoom(int64(c.MaxMsgSize)), 0); c.MaxMsgSize > 0 && room < s.BodyLimit() {
		level := Warning
		if room < smallBody {
			level = Problem
		}
		r.add(level, "message_size", fmt.Sprintf("stream %s accepts bodies of %v, not of %v", c.Name, config.Size(room), config.Size(s.BodyLimit())),
			"larger bodies are rejected on every retry", fmt.Sprintf("nats stream edit %s --max-msg-size %d", c.Name, s.MaxPayload()))
	}
}

const syncClock = "sudo timedatectl set-ntp true && timedatectl timesync-status"

func (d *doctor) checkClock(ctx context.Context, r *Result) {
	info, err := d.events.Info(ctx)
	if err != nil {
		r.unanswered("the broker's clock", err, "nats stream info "+d.Settings.Stream)
		return
	}
	apart, tolerance, level := d.Now().Sub(info.TimeStamp).Abs(), d.Settings.Tolerance, Warning
	switch {
	case apart < max(tolerance/10, time.Second):
		r.Seen = "agrees with the broker's"
		return
	case apart >= tolerance:
		level = Problem
	}
	r.add(level, "clock", fmt.Sprintf("the clocks of this machine and of the broker differ by %s", apart.Round(time.Second)),
		fmt.Sprintf("if this machine's is wrong, webhooks are rejected: it may differ from the sender's by INGRESS_TOLERANCE (%s)", tolerance),
		syncClock)
}

func (d *doctor) checkConsumers(ctx context.Context, r *Result) {
	list, err := publish.ReadConsumers(ctx, d.events, math.MaxInt)
	if err != nil {
		r.unanswered("the consumers", err, "versive-ingress consumers")
		return
	}
	for _, c := range list {
		d.checkConsumer(r, c)
	}
	r.Seen = fmt.Sprintf("%d durable", len(list))
}

func (d *doctor) checkConsumer(r *Result, c publish.ConsumerState) {
	limit, name := c.Config.MaxAckPending, c.Stream+" "+c.Name
	warn := func(applies bool, id, found, why, remedy string) {
		r.when(applies, Warning, id, fmt.Sprintf("consumer %s %s", c.Name, found), why, remedy)
	}
	warn(c.Config.AckPolicy == jetstream.AckNonePolicy, "consumer_no_ack", "does not acknowledge events", "it loses what is delivered when it crashes",
		fmt.Sprintf("nats consumer copy %s %s_2 --ack explicit  # read with that one, and then: nats consumer rm %s", name, c.Name, name))
	warn(c.Config.MaxDeliver > 0, "consumer_gives_up", fmt.Sprintf("has max_deliver %d", c.Config.MaxDeliver), "it loses an event that was delivered that often",
		fmt.Sprintf("nats consumer edit %s --max-deliver=-1", name))
	flags, wrong := "", []string(nil)
	for _, filter := range c.Filters() {
		correct := d.correct(filter)
		if flags += fmt.Sprintf(" --filter '%s'", correct); correct != filter {
			wrong = append(wrong, filter)
		}
	}
	warn(len(wrong) > 0, "consumer_filter", fmt.Sprintf("filters on %q, which matches no event", wrong), "it receives no events",
		fmt.Sprintf("nats consumer edit %s%s", name, flags))
	stalled := terminal.Age(c.Stalled())
	switch {
	case c.Paused:
		warn(true, "consumer_paused", fmt.Sprintf("is paused for another %s", terminal.Age(c.PauseRemaining)), "it receives no events", "nats consumer resume "+name)
	case limit > 0 && c.NumAckPending >= limit && c.Stalled() >= d.Idle:
		warn(true, "consumer_stuck", fmt.Sprintf("reached max_ack_pending (%d) and has acknowledged nothing for %s", limit, stalled),
			"it receives no more events until it acknowledges some",
			fmt.Sprintf("nats consumer edit %s --max-pending %d  # if it handles that many concurrently; otherwise find out why it does not acknowledge", name, 2*limit))
	case c.NumWaiting == 0 && !c.PushBound && c.Stalled() >= d.Idle && c.TimeStamp.Sub(c.LastActivity()) >= d.Idle:
		warn(true, "consumer_idle", fmt.Sprintf("has %d unacknowledged, no active client for %s", c.Unacknowledged(), stalled),
			"the program that should read them is not running", fmt.Sprintf("versive-ingress consumers delete %s  # if it is no longer needed; otherwise start its program", c.Name))
	case c.Lag() >= d.Lag:
		warn(true, "consumer_behind", fmt.Sprintf("lags: %d unacknowledged, the oldest stored %s ago", c.Unacknowledged(), terminal.Age(c.Lag())),
			"it reads more slowly than events arrive, or fails on one of them", "versive-ingress consumers  # then raise its Concurrency, run more instances, or see its log")
	}
}

// correct returns a filter that matches events: the given one if it does, or else one
// that was probably meant.
func (d *doctor) correct(filter string) string {
	first := func(subject string) string { token, _, _ := strings.Cut(subject, "."); return token }
	prefixes := []string{"*", ">"}
	for _, subject := range d.events.CachedInfo().Config.Subjects {
		prefixes = append(prefixes, first(subject))
	}
	for _, f := range []string{filter, filter + ".>"} {
		n := strings.Count(f, ".") + 1
		if slices.Contains(prefixes, first(f)) && (n == eventTokens || n < eventTokens && strings.HasSuffix(f, ">")) {
			return f
		}
	}
	return d.Settings.Subject + ".>"
}

// eventTokens is how many tokens the subject of an event has, with two for its type.
const eventTokens = 6

// checkLosses reports the losses that the ingress has reported, and that nobody has
// acknowledged.
func (d *doctor) checkLosses(_ context.Context, r *Result) {
	lost := func(found string) {
		r.add(Problem, "events_lost", found, "they were answered 2xx, so the sender does not resend them", "versive-ingress audit  # then see Losses in docs/operations.md")
	}
	r.Seen = "none unacknowledged"
	if d.external() { // then the ingress keeps the reports in memory
		messages, streams := d.metrics.sum("versive_ingress_stream_lost_events_total"), d.metrics.sum("versive_ingress_stream_recreated_total")
		switch {
		case messages+streams > 0:
			r.Seen = "unacknowledged"
			lost(fmt.Sprintf("the ingress reports %.0f lost messages and %.0f deleted streams", messages, streams))
		case !d.running:
			r.Seen = "unknown: the ingress does not run"
		}
		return
	}
	losses, _, err := publish.ReadLosses(d.Settings.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !d.running:
		r.Seen = "unknown: no ingress has used INGRESS_DATA_DIR"
	case err != nil:
		r.Seen = "unknown"
		r.unanswered("the high-water marks in INGRESS_DATA_DIR", access.AsOwner(err, "doctor"), onSystemd+"  # or otherwise with the user and the settings of the ingress")
	}
	if len(losses) > 0 {
		r.Seen = fmt.Sprintf("%d unacknowledged", len(losses))
	}
	for _, l := range losses {
		lost(l.String())
	}
}
