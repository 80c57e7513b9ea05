package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// probeBody is of a type that no version understands, so it is no event for
// anybody.
var probeBody = []byte(`{"event_type":"versive-ingress.doctor","interview":{"id":"doctor"},"study":{"id":"doctor"}}`)

// checkProbe sends a webhook through the running ingress and looks for it in
// the quarantine. Whatever happens, it discards what it finds there.
func (d *doctor) checkProbe(ctx context.Context) (seen string, findings []Finding) {
	id := "msg_doctor_" + sender.NewID()[len("msg_"):]
	url := cmp.Or(d.url, d.settings.WebhookURL())
	s := sender.Sender{URL: url}
	if d.url == "" {
		s.HTTP = localClient()
	}
	var took time.Duration
	posts := append(slices.Clone(d.secrets), d.secrets[0]) // a second time at least
	refused := 0
	for i, c := range posts {
		if err := s.SignWith(c.secret); err != nil {
			return "", []Finding{unanswered("signing", err, setSecret)} // it was checked
		}
		started := time.Now()
		answer, err := s.Post(ctx, id, started, probeBody)
		took = max(took, time.Since(started))
		if finding, ok := refusedProbe(redacted(url), c.position, answer, err); ok {
			refused++
			if i < len(d.secrets) {
				findings = append(findings, finding)
			}
		}
	}
	// However long the answers took, what came in must not be left there.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), broker.Timeout)
	defer cancel()
	found, where := d.collectProbe(ctx, id, refused < len(posts))
	findings = append(findings, found...)
	if finding, ok := d.probeEvents(ctx, id); ok {
		findings = append(findings, finding)
	}
	return fmt.Sprintf("posted %s to %s, answered in %s%s", terminal.Plural(len(posts), "time", "times"), redacted(url), took.Round(time.Millisecond), where), findings
}

// refusedProbe reports whether an answer is any but the one that is due.
func refusedProbe(url string, secret int, a sender.Answer, err error) (Finding, bool) {
	switch {
	case err != nil:
		return Finding{"probe_failed", Problem, fmt.Sprintf("the probe had no answer: %v", err), "nor has a webhook", "curl -i " + url}, true
	case a.Status == http.StatusAccepted && a.Outcome == "quarantined":
		return Finding{}, false
	case a.Status == http.StatusUnauthorized:
		return Finding{
			"probe_unauthorized", Problem, fmt.Sprintf("the ingress does not accept secret %d of these settings", secret),
			"it runs with other secrets, and refuses what is signed with this one", restart,
		}, true
	default:
		return Finding{
			"probe_refused", Problem, fmt.Sprintf("the probe was answered %v, not 202", a), "webhooks are not answered as they should be",
			fmt.Sprintf("curl -i %s  # want 405: is an ingress there, or what is between?", url),
		}, true
	}
}

// collectProbe looks for the probe in the quarantine, where it must be once and
// as it was sent, and discards it.
func (d *doctor) collectProbe(ctx context.Context, id string, accepted bool) (findings []Finding, seen string) {
	subject := schema.Quarantine(id, nil, &schema.Error{}, nil).Subject(d.settings.Subject)
	name := schema.KindQuarantine.Stream(d.settings.Stream)
	stream, err := d.broker.JetStream.Stream(ctx, name)
	var msg *jetstream.RawStreamMsg
	if err == nil {
		publish.ReadFromLeader(stream)
		msg, err = stream.GetLastMsgForSubject(ctx, subject)
	}
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound) && !accepted:
		return nil, ""
	case err != nil:
		return []Finding{{
			"probe_lost", Problem, fmt.Sprintf("the probe was answered 202, but is not in %s: %v", name, err),
			"the ingress stores elsewhere than these settings say, or it loses what it acknowledges", "nats stream ls  # is INGRESS_STREAM that of the ingress?",
		}}, ""
	}

	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err == nil && (info.State.Subjects[subject] != 1 || !bytes.Equal(msg.Data, probeBody)) {
		findings = append(findings, Finding{
			"probe_not_once", Problem, fmt.Sprintf("the probe is in %s %d times, want once and as it was sent", name, info.State.Subjects[subject]),
			"a duplicate is stored a second time", "nats stream info " + name,
		})
	}
	eraser := publish.Eraser{JetStream: d.broker.JetStream, Stream: d.settings.Stream}
	if err := eraser.Delete(ctx, publish.Copy{Kind: schema.KindQuarantine, Subject: subject, Sequence: msg.Sequence}); err != nil {
		findings = append(findings, Finding{
			"probe_left", Warning, fmt.Sprintf("the probe could not be discarded: %v", err), "it stays in the quarantine", "versive-ingress quarantine discard " + id,
		})
	}
	return findings, fmt.Sprintf("; read back once as %s %d, and discarded", name, msg.Sequence)
}

// probeEvents publishes to the event stream what it must refuse: whether events
// have a way there is known, and nothing is stored.
func (d *doctor) probeEvents(ctx context.Context, id string) (Finding, bool) {
	name := d.settings.Stream
	_, err := d.broker.JetStream.PublishMsg(ctx, &nats.Msg{
		Subject: schema.Subject{Prefix: d.settings.Subject, Type: "versive-ingress.doctor", StudyID: "doctor", InterviewID: "doctor", ID: id}.String(),
		Header: nats.Header{
			jetstream.ExpectedStreamHeader:  {name},
			jetstream.ExpectedLastSeqHeader: {"9223372036854775807"}, // no stream is that long
		},
	}, jetstream.WithRetryAttempts(0))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return Finding{}, false
	}
	return Finding{
		"probe_events", Problem, fmt.Sprintf("stream %s does not answer a publish as it should: %v", name, err), "events cannot be stored",
		"nats stream info " + name + "  # and may this user publish to " + d.settings.Subject + ".> ?",
	}, true
}
