package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/held"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

func (d *doctor) checkEvents(ctx context.Context) (seen string, findings []Finding) {
	info, findings := d.checkStream(ctx, schema.KindEvent)
	if info == nil {
		return "", findings
	}
	return fmt.Sprintf("%d in %s", info.State.Msgs, info.Config.Name), findings
}

func (d *doctor) checkQuarantine(ctx context.Context) (seen string, findings []Finding) {
	info, findings := d.checkStream(ctx, schema.KindQuarantine)
	if info == nil {
		return "", findings
	}
	list, _, err := held.Read(ctx, d.broker)
	switch {
	case err != nil:
		findings = append(findings, unanswered("the quarantine", err, "versive-ingress quarantine list"))
	case len(list) > 0:
		findings = append(findings, Finding{
			"quarantine_not_empty", Warning,
			fmt.Sprintf("%s authentic but not understood, the oldest for %s", terminal.Plural(len(list), "webhook is", "webhooks are"), terminal.Age(time.Since(list[0].Time))),
			"they were answered 202, and are no events", "versive-ingress quarantine list",
		})
	}
	return fmt.Sprintf("%d in %s", len(list), info.Config.Name), findings
}

// checkStream checks the stream of a kind of message against the promise. It
// returns nil for a stream that cannot be looked up.
func (d *doctor) checkStream(ctx context.Context, kind schema.Kind) (*jetstream.StreamInfo, []Finding) {
	name := kind.Stream(d.settings.Stream)
	stream, err := d.broker.JetStream.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, []Finding{{
			"stream_missing", Unknown, fmt.Sprintf("there is no stream %s", name), "the ingress creates it when it starts; if it runs, it has another INGRESS_STREAM than these settings",
			"versive-ingress serve",
		}}
	}
	if err != nil {
		return nil, []Finding{unanswered("stream "+name, err, "nats stream info "+name)}
	}
	info := stream.CachedInfo()
	findings := append(d.checkConfig(kind, info.Config), d.checkState(info)...)
	return info, append(findings, checkReplicas(ctx, stream)...)
}

// checkConfig turns the gaps of a stream into findings, and adds what publish
// cannot know: how long the sender goes on, and what the broker is.
func (d *doctor) checkConfig(kind schema.Kind, c jetstream.StreamConfig) (findings []Finding) {
	s := d.settings
	add := func(id string, level Level, found, why, remedy string) {
		findings = append(findings, Finding{id, level, fmt.Sprintf("stream %s %s", c.Name, found), why, remedy})
	}
	short := c.MaxAge > 0 && c.MaxAge < senderSchedule
	windowed := false // the window has a finding
	for _, drift := range s.Streams().Inspect(kind, c) {
		windowed = windowed || drift.Name == "window"
		switch {
		case drift.Name == "window_limited" && short: // says less than what follows
		case drift.Action == publish.Reject, drift.Name == "subjects":
			add("stream_"+drift.Name, Problem, drift.Problem, drift.Why, drift.Remedy)
		default:
			add("stream_"+drift.Name, Warning, drift.Problem, drift.Why, drift.Remedy)
		}
	}
	switch {
	case short:
		remedy := fmt.Sprintf("nats stream edit %s --max-age 48h --dupe-window 48h", c.Name)
		if s.MaxAge == c.MaxAge {
			remedy = "export INGRESS_MAX_AGE=48h  # or longer; and restart"
		}
		add("age_short", Problem, fmt.Sprintf("keeps events for %s only", c.MaxAge), "the sender retries for 27 h 35 m: an event that is gone by then is stored a second time", remedy)
	case c.Duplicates < senderSchedule && !windowed:
		add("window_short", Warning, fmt.Sprintf("has a duplicate window of %s", c.Duplicates),
			"the sender retries for 27 h 35 m: an event that was deleted by then is stored a second time", "export INGRESS_DEDUPE_WINDOW=48h  # and restart")
	}
	if d.broker.NC.ConnectedClusterName() != "" && d.external() && c.Replicas == 1 && s.Replicas == 1 {
		add("one_replica", Warning, "has one replica on a cluster", "its events die with one disk, and are out of reach while that server is", "export INGRESS_REPLICAS=3  # and restart")
	}
	if size := int64(c.MaxMsgSize); size > 0 {
		if room, body := config.BodyRoom(size), s.BodyLimit(); room < body {
			add("message_size", Warning, fmt.Sprintf("takes messages of %d bytes, and a body of %v needs more", size, config.Size(body)),
				"larger bodies are refused, and never come in", fmt.Sprintf("nats stream edit %s --max-msg-size %d", c.Name, size+body-room))
		}
	}
	return findings
}

// checkState checks what a stream holds, and who holds it.
func (d *doctor) checkState(info *jetstream.StreamInfo) (findings []Finding) {
	c, s := info.Config, info.State
	if c.MaxBytes > 0 {
		findings = append(findings, fullness("stream_full", "stream "+c.Name, s.Bytes, c.MaxBytes, fmt.Sprintf("nats stream edit %s --max-bytes %d", c.Name, 2*c.MaxBytes))...)
	}
	if c.MaxMsgs > 0 && float64(s.Msgs) >= nearly*float64(c.MaxMsgs) {
		level := Warning
		if s.Msgs >= uint64(c.MaxMsgs) {
			level = Problem
		}
		findings = append(findings, Finding{
			"stream_full", level, fmt.Sprintf("stream %s has %d of %d messages", c.Name, s.Msgs, c.MaxMsgs),
			"when it is full, webhooks are answered 503", fmt.Sprintf("nats stream edit %s --max-msgs %d", c.Name, 2*c.MaxMsgs),
		})
	}
	return findings
}

// catchUp is how long a replica may be behind: under load it always is, by a
// little, at the moment that one looks.
const catchUp = 2 * time.Second

// checkReplicas finds the replicas that are away, or stay behind.
func checkReplicas(ctx context.Context, stream jetstream.Stream) (findings []Finding) {
	info := stream.CachedInfo()
	if info.Cluster == nil {
		return nil
	}
	behind := func(p *jetstream.PeerInfo) bool { return !p.Current && !p.Offline }
	for deadline := time.Now().Add(catchUp); slices.ContainsFunc(info.Cluster.Replicas, behind) && time.Now().Before(deadline); {
		time.Sleep(catchUp / 10)
		next, err := stream.Info(ctx)
		if err != nil {
			return []Finding{unanswered("stream "+info.Config.Name, err, "nats stream info "+info.Config.Name)}
		}
		info = next
	}
	for _, peer := range info.Cluster.Replicas {
		if peer.Offline || !peer.Current {
			findings = append(findings, Finding{
				"replica_behind", Warning, fmt.Sprintf("the replica of stream %s on %s is away or behind", info.Config.Name, peer.Name),
				"an event is on fewer disks than INGRESS_REPLICAS says", "nats server report jetstream",
			})
		}
	}
	return findings
}

func (d *doctor) checkDeadLetters(ctx context.Context) (seen string, findings []Finding) {
	if stream, err := d.broker.JetStream.Stream(ctx, schema.KindDead.Stream(d.settings.Stream)); err == nil { // else Range says why
		c := stream.CachedInfo().Config
		for _, drift := range d.settings.Streams().Inspect(schema.KindDead, c) {
			switch {
			case drift.Name == "owner":
				findings = append(findings, Finding{"stream_owner", Problem, fmt.Sprintf("stream %s %s", c.Name, drift.Problem), drift.Why, drift.Remedy})
			case drift.Name == "max_age" && drift.Action == publish.Tolerate: // the ingress shortens it, if it may
				findings = append(findings, Finding{
					"stream_max_age", Warning, fmt.Sprintf("stream %s %s", c.Name, drift.Problem),
					"a dead letter holds a whole interview; the ingress may lack the permission to change that", drift.Remedy,
				})
			}
		}
	}
	letters, erasures := 0, 0
	var oldest time.Time
	for m, err := range d.broker.Source.Range(ctx, subscribe.Selection{Kind: schema.KindDead, Subject: broker.AnySubject, HeadersOnly: true}) {
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return "none: no consumer has given up on anything", nil
		case err != nil:
			return "", append(findings, unanswered("the dead letters", err, "nats stream info "+schema.KindDead.Stream(d.settings.Stream)))
		case schema.IsSettled(m.Header):
			continue
		case letters == 0:
			oldest = m.Time
		}
		letters++
		if m.Erased() {
			erasures++
		}
	}
	if letters > 0 {
		why := "somebody downstream lacks them"
		if erasures > 0 {
			why = fmt.Sprintf("somebody downstream lacks them, or has not erased what belongs to %s", terminal.Plural(erasures, "erased interview", "erased interviews"))
		}
		findings = append(findings, Finding{
			"dead_letters", Warning, fmt.Sprintf("consumers have given up on %s, the oldest %s ago", terminal.Plural(letters, "event", "events"), terminal.Age(time.Since(oldest))),
			why, fmt.Sprintf("nats stream subjects %s  # their consumers; the reason is in the header %s", schema.KindDead.Stream(d.settings.Stream), schema.HeaderReason),
		})
	}
	return fmt.Sprint(letters), findings
}
