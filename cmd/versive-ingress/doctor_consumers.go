package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
)

// checkConsumers looks for durable consumers that lose events, or do not get
// on.
func (d *doctor) checkConsumers(ctx context.Context) (seen string, findings []Finding) {
	stream, err := d.broker.JetStream.Stream(ctx, d.settings.Stream)
	if err != nil {
		return "not known without the stream", nil // a finding of the events
	}
	durable := 0
	list := stream.ListConsumers(ctx)
	for info := range list.Info() {
		if info.Config.Durable == "" {
			continue // of a reader such as tail
		}
		durable++
		findings = append(findings, d.checkConsumer(ctx, stream, info)...)
	}
	if err := list.Err(); err != nil {
		findings = append(findings, unanswered("the consumers", err, "nats consumer ls "+d.settings.Stream))
	}
	return fmt.Sprintf("%d durable", durable), findings
}

func (d *doctor) checkConsumer(ctx context.Context, stream jetstream.Stream, info *jetstream.ConsumerInfo) (findings []Finding) {
	c := info.Config
	name := info.Stream + " " + info.Name
	add := func(id, found, why, remedy string) {
		findings = append(findings, Finding{id, Warning, fmt.Sprintf("consumer %s %s", info.Name, found), why, remedy})
	}
	if c.AckPolicy == jetstream.AckNonePolicy {
		add("consumer_no_ack", "does not acknowledge events", "an event that is delivered when it crashes is lost to it",
			fmt.Sprintf("nats consumer copy %s %s_2 --ack explicit  # and read as that one", name, info.Name))
	}
	if c.MaxDeliver > 0 {
		add("consumer_gives_up", fmt.Sprintf("gives up on an event after %d deliveries", c.MaxDeliver), "it loses that event in silence",
			fmt.Sprintf("nats consumer edit %s --max-deliver=-1", name))
	}

	now := info.TimeStamp // the broker's clock, as are the others
	asked, settled := info.Created, info.Created
	if at := info.Delivered.Last; at != nil {
		asked = later(asked, *at)
	}
	if at := info.AckFloor.Last; at != nil {
		settled = later(settled, *at)
	}
	taken := info.NumWaiting > 0 || info.PushBound
	switch {
	case info.Paused:
		add("consumer_paused", fmt.Sprintf("is paused for %s more", terminal.Age(info.PauseRemaining)), "it gets no events", "nats consumer resume "+name)
	case c.MaxAckPending > 0 && info.NumAckPending >= c.MaxAckPending && now.Sub(settled) >= d.idle:
		add("consumer_stuck", fmt.Sprintf("has all %d events that it may have and settles none of them since %s", c.MaxAckPending, terminal.Age(now.Sub(settled))),
			"it gets no more before it does", fmt.Sprintf("nats consumer edit %s --max-pending %d  # if it needs more at once; else see why it does not acknowledge", name, 2*c.MaxAckPending))
	case info.NumPending > 0 && !taken && now.Sub(later(asked, settled)) >= d.idle:
		add("consumer_idle", fmt.Sprintf("leaves %s for %s: nobody asks for them", terminal.Plural(info.NumPending, "event", "events"), terminal.Age(now.Sub(later(asked, settled)))),
			"what should read them does not run", fmt.Sprintf("nats consumer rm %s  # if nobody needs it any more; else start its program", name))
	case info.NumPending > 0:
		if behind := d.behind(ctx, stream, info); behind >= d.lag {
			add("consumer_behind", fmt.Sprintf("is behind: %s, the oldest from %s ago", terminal.Plural(info.NumPending, "event waits", "events wait"), terminal.Age(behind)),
				"it reads more slowly than events come, or has stopped on one", "nats consumer info "+name+"  # then raise its Concurrency, or run more of it")
		}
	}
	return findings
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// behind returns the age of the oldest event that a consumer was not given.
func (d *doctor) behind(ctx context.Context, stream jetstream.Stream, info *jetstream.ConsumerInfo) time.Duration {
	var options []jetstream.GetMsgOpt
	if filter := info.Config.FilterSubject; filter != "" {
		options = append(options, jetstream.WithGetMsgSubject(filter))
	} else {
		options = append(options, jetstream.WithGetMsgSubject(broker.AnySubject))
	}
	msg, err := stream.GetMsg(ctx, info.Delivered.Stream+1, options...)
	if err != nil { // it was deleted meanwhile
		return 0
	}
	return info.TimeStamp.Sub(msg.Time)
}
