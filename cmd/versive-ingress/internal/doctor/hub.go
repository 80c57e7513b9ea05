package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// checkHub checks what waits to be forwarded, and whether the hub can take it.
func (d *doctor) checkHub(ctx context.Context, r *Result) {
	if d.Settings.ForwardURL == "" {
		r.add(Problem, "no_hub", "INGRESS_FORWARD_URL is not set, so nothing is forwarded", "--drained asks whether everything is", "export INGRESS_FORWARD_URL=nats://…")
		return
	}
	d.checkPending(ctx, r)
	nc, err := broker.Connect(d.Settings.Hub(), "doctor", nats.ErrorHandler(d.deny))
	if f, ok := errors.AsType[*broker.Failure](err); ok {
		level := Warning // events are stored here and wait for it
		if f.Permanent {
			level = Problem
		}
		r.add(level, f.ID, f.Found, "events wait here for the hub; once the store is full, webhooks are answered 503", f.Remedy)
		return
	}
	if err != nil {
		r.unanswered("the hub", err, "versive-ingress serve --help")
		return
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		r.unanswered("the hub", err, broker.CLI(d.Settings.Hub())+" account info")
		return
	}
	if err := forward.CheckHub(ctx, js, d.Settings.Stream); errors.Is(err, forward.ErrForwards) {
		r.add(Problem, "hub_is_edge", err.Error(), "each would confirm what both then remove, so nothing is forwarded", "nats consumer info "+d.Settings.Stream+" "+forward.Consumer)
		return
	}
	const connected = "versive_ingress_forward_connected"
	if len(d.metrics.series(connected)) > 0 && d.metrics.sum(connected) == 0 {
		r.add(Warning, "hub_not_writable", "the running ingress cannot forward to the hub, although it answers", "its streams or its account may be full, or its streams have no leader; events wait here",
			broker.CLI(d.Settings.Hub())+" account info  # the log of the ingress has the reason: journalctl -u versive-ingress | grep hub")
	}
	if have := nc.MaxPayload(); have < d.Settings.MaxPayload() {
		r.add(Problem, "hub_max_payload", fmt.Sprintf("the hub accepts messages of at most %v", config.Size(have)), "a larger one, and all that are stored after it, wait indefinitely",
			fmt.Sprintf("max_payload: %d  # in the configuration of the hub's servers, then: nats-server --signal reload", d.Settings.MaxPayload()))
	}
	for kind := range schema.Kinds {
		name := kind.Stream(d.Settings.Stream)
		stream, err := js.Stream(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound) && kind == schema.KindDead:
		case errors.Is(err, jetstream.ErrStreamNotFound):
			r.add(Problem, "hub_no_stream", "the hub has no stream "+name, "nothing is forwarded to it", "versive-ingress serve  # creates it, if its user may")
		case err != nil:
			r.unanswered("stream "+name+" of the hub", err, broker.CLI(d.Settings.Hub())+" stream info "+name)
		case kind != schema.KindDead: // which consumers create
			d.checkHubStream(r, kind, stream.CachedInfo().Config)
		}
	}
}

func (d *doctor) checkHubStream(r *Result, kind schema.Kind, c jetstream.StreamConfig) {
	want := d.Settings.HubStreams()
	want.CLI = broker.CLI(d.Settings.Hub())
	for _, drift := range want.Inspect(kind, c) {
		level := Warning
		if drift.Action == publish.Reject || drift.Name == "subjects" {
			level = Problem
		}
		r.add(level, "hub_stream_"+drift.Name, fmt.Sprintf("stream %s of the hub %s", c.Name, drift.Problem), drift.Why, drift.Remedy)
	}
	if limit := int64(c.MaxMsgSize); limit > 0 && limit < d.Settings.MaxPayload() {
		r.add(Problem, "hub_message_size", fmt.Sprintf("stream %s of the hub accepts messages of at most %v", c.Name, config.Size(limit)), "a larger one, and all that are stored after it, wait indefinitely",
			fmt.Sprintf("%s stream edit %s --max-msg-size=-1", broker.CLI(d.Settings.Hub()), c.Name))
	}
	if age := d.Settings.MaxAge; c.MaxAge > 0 && (age == 0 || age > c.MaxAge) {
		r.add(Warning, "hub_age", fmt.Sprintf("stream %s of the hub keeps messages for %s, which is shorter than INGRESS_MAX_AGE", c.Name, c.MaxAge),
			"a message that has expired at the hub is stored again if it is forwarded again", fmt.Sprintf("export INGRESS_MAX_AGE=%s  # and restart", c.MaxAge))
	}
}

// checkPending reports how much waits for the hub.
func (d *doctor) checkPending(ctx context.Context, r *Result) {
	var seen []string
	for kind := range schema.Kinds {
		name := kind.Stream(d.Settings.Stream)
		status, err := forward.ReadStatus(ctx, d.broker.JetStream, name)
		if err != nil {
			r.unanswered("what waits for the hub", err, "nats consumer info "+name+" "+forward.Consumer)
			continue
		}
		if !status.Exists {
			continue
		}
		backlog := fmt.Sprintf("%d of %s", status.Pending, name)
		if status.Pending > 0 {
			backlog += fmt.Sprintf(", the oldest stored %s ago", terminal.Age(status.Oldest))
		}
		seen = append(seen, backlog)
		switch {
		case status.Pending > 0 && d.Drained:
			r.add(Problem, "forward_pending", terminal.Plural(status.Pending, "message", "messages")+" of stream "+name+" not forwarded yet", "an edge that is taken away would take them along",
				"versive-ingress doctor --drained  # again, once the hub is reachable")
		case status.Oldest >= d.Lag:
			r.add(Warning, "forward_behind", fmt.Sprintf("%s of stream %s wait for the hub, the oldest stored %s ago", terminal.Plural(status.Pending, "message", "messages"), name, terminal.Age(status.Oldest)),
				"consumers at the hub do not have them, and the store fills", "journalctl -u versive-ingress | grep hub  # the log has the reason")
		}
	}
	r.Seen = "waiting: " + strings.Join(seen, "; ")
}
