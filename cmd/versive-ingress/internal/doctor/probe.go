package doctor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/sender"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/schema"
)

// probeBody is of a type that every version quarantines, so that no consumer receives
// it as an event.
var probeBody = []byte(`{"event_type":"versive-ingress.doctor","interview":{"id":"doctor"},"study":{"id":"doctor"}}`)

// checkProbe posts a webhook to the running ingress, with each of the secrets and
// with the first one again, and then one of the largest size. It looks for each in the
// quarantine and discards it, whatever the answers were.
func (d *doctor) checkProbe(ctx context.Context, r *Result) {
	switch {
	case !d.Probe:
		r.skip("not made; --probe makes it")
		return
	case !d.running || d.account == nil || len(d.secrets) == 0:
		r.skip("not checked: it needs an ingress, its secrets and its broker")
		return
	}
	s := sender.Sender{URL: cmp.Or(d.ProbeURL, d.Settings.WebhookURL())}
	if d.ProbeURL == "" {
		s.HTTP = localClient
	}
	large := append(bytes.Clone(probeBody), bytes.Repeat([]byte(" "), int(min(d.Settings.BodyLimit(), config.BodyRoom(d.broker.NC.MaxPayload())))-len(probeBody))...)
	r.Seen = fmt.Sprintf("at %s", redacted(s.URL))
	d.post(ctx, r, &s, "msg_doctor_"+rand.Text(), probeBody, append(slices.Clone(d.secrets), d.secrets[0]))
	if len(r.Findings) == 0 {
		d.post(ctx, r, &s, "msg_doctor_"+rand.Text(), large, d.secrets[:1])
	}
}

// post posts a body with each of the secrets, and collects it.
func (d *doctor) post(ctx context.Context, r *Result, s *sender.Sender, id string, body []byte, secrets []string) {
	accepted := 0
	for i, secret := range secrets {
		_ = s.SignWith(secret) // which is valid
		answer, err := s.Post(ctx, id, time.Now(), body)
		if !d.checkAnswer(ctx, r, redacted(s.URL), i%len(d.secrets)+1, len(body), answer, err) {
			break
		}
		accepted++
	}
	r.Seen += fmt.Sprintf("; %s accepted %s", terminal.Bytes(int64(len(body))), terminal.Plural(accepted, "time", "times"))
	d.collectProbe(context.WithoutCancel(ctx), r, id, body, accepted > 0) // the answers may have taken all the time
}

// checkAnswer reports any answer but the expected one.
func (d *doctor) checkAnswer(ctx context.Context, r *Result, url string, secret, size int, a sender.Answer, err error) (expected bool) {
	switch {
	case err != nil:
		r.add(Problem, "probe_failed", fmt.Sprintf("the probe was not answered: %v", err), "webhooks are not answered either", "curl -i "+url)
	case a.Foreign && a.Status == http.StatusRequestEntityTooLarge:
		r.add(Problem, "probe_limited", fmt.Sprintf("a proxy at %s does not accept a body of %s", url, terminal.Bytes(int64(size))), "larger webhooks are rejected on every retry, and are then lost",
			fmt.Sprintf("client_max_body_size %dm;  # of nginx; other proxies have a limit as well", size>>20+1))
	case a.Foreign:
		r.add(Problem, "probe_intercepted", fmt.Sprintf("the probe was answered %v", a), "webhooks do not reach the ingress",
			fmt.Sprintf("curl -i %s  # 405 is expected; other statuses are those of a proxy or another server", url))
	case a.Status == http.StatusUnauthorized && d.rejectedNow(ctx, "missing_header"):
		r.add(Problem, "probe_headers", "the signature headers of the probe did not arrive", "a proxy removes or renames them, and webhooks are rejected like the probe",
			"proxy_pass_request_headers on;  # of nginx: Svix-Id, Svix-Timestamp and Svix-Signature must pass unchanged")
	case a.Status == http.StatusUnauthorized && d.hasRunningSecrets():
		r.add(Problem, "probe_changed", fmt.Sprintf("the ingress has secret %d of these settings, and rejects the probe", secret), "a proxy changes headers or bodies, or the clocks differ",
			"versive-ingress doctor --probe  # without --url: if that succeeds, it is the proxy")
	case a.Status == http.StatusUnauthorized:
		r.add(Problem, "probe_unauthorized", fmt.Sprintf("the ingress does not accept secret %d of these settings", secret),
			"it runs with other secrets, and rejects what is signed with this one", restart)
	case a.Status != http.StatusAccepted || a.Outcome != "quarantined":
		r.add(Problem, "probe_refused", fmt.Sprintf("the probe was answered %v, not 202", a), "webhooks are not answered as they should be",
			fmt.Sprintf("curl -i %s  # 405 is expected; other statuses are those of a proxy or another server", url))
	default:
		return true
	}
	return false
}

// rejectedNow reports whether the ingress has rejected requests for a reason since its
// metrics were read.
func (d *doctor) rejectedNow(ctx context.Context, reason string) bool {
	count := func(m metrics) (n float64) {
		for _, s := range m.series("versive_ingress_requests_total") {
			if string(s.Metric["reason"]) == reason {
				n += float64(s.Value)
			}
		}
		return n
	}
	admin, _ := d.Settings.AdminURL()
	_, text, err := get(ctx, admin+"/metrics")
	return err == nil && count(parseMetrics(text)) > count(d.metrics)
}

// collectProbe discards the probe from the quarantine, where it must be once.
func (d *doctor) collectProbe(ctx context.Context, r *Result, id string, body []byte, accepted bool) {
	ctx, cancel := context.WithTimeout(ctx, broker.Timeout)
	defer cancel()
	subject := schema.Quarantine(id, nil, &schema.Error{}, nil).Subject(d.Settings.Subject)
	name := schema.KindQuarantine.Stream(d.Settings.Stream)
	stream, err := d.broker.JetStream.Stream(ctx, name)
	var msg *jetstream.RawStreamMsg
	if err == nil {
		publish.ReadFromLeader(stream)
		msg, err = stream.GetLastMsgForSubject(ctx, subject)
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) && !accepted {
		return
	}
	if err != nil {
		r.add(Problem, "probe_lost", fmt.Sprintf("the probe is not in stream %s: %v", name, err),
			"the ingress stores elsewhere than these settings say, or loses what it acknowledges", "nats stream ls  # does the ingress have another INGRESS_STREAM?")
		return
	}
	r.Seen += fmt.Sprintf("; read back as %s %d and discarded", name, msg.Sequence)
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err == nil && (info.State.Subjects[subject] != 1 || !bytes.Equal(msg.Data, body)) {
		r.add(Problem, "probe_not_once", fmt.Sprintf("the probe is in stream %s %d times, or was changed", name, info.State.Subjects[subject]),
			"duplicates are stored, or bodies are changed", "nats stream info "+name)
	}
	eraser := publish.Eraser{JetStream: d.broker.JetStream, Stream: d.Settings.Stream}
	if err := eraser.Delete(ctx, publish.Copy{Kind: schema.KindQuarantine, Subject: subject, Sequence: msg.Sequence}); err != nil {
		r.add(Warning, "probe_left", fmt.Sprintf("the probe could not be discarded: %v", err), "it stays in the quarantine", "versive-ingress quarantine discard "+id)
	}
}
