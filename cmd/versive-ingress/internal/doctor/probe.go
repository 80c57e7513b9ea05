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
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/forward"
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
	r.Seen = "at " + redacted(s.URL)
	d.post(ctx, r, &s, forward.ProbeID+rand.Text(), probeBody, append(slices.Clone(d.secrets), d.secrets[0]))
	if len(r.Findings) == 0 {
		d.post(ctx, r, &s, forward.ProbeID+rand.Text(), large, d.secrets[:1])
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
	r.Seen += fmt.Sprintf("; %s accepted %s", terminal.Bytes(len(body)), terminal.Plural(accepted, "time", "times"))
	d.collectProbe(context.WithoutCancel(ctx), r, id, body, accepted > 0) // the answers may have taken all the time
}

// checkAnswer reports any answer but the expected one.
func (d *doctor) checkAnswer(ctx context.Context, r *Result, url string, secret, size int, a sender.Answer, err error) (expected bool) {
	remedy := d.withoutProxy("versive-ingress health  # then see the ingress's log")
	switch {
	case err != nil:
		r.add(Problem, "probe_failed", fmt.Sprintf("the probe was not answered: %v", err), "webhooks are not answered either", "curl -i "+url)
	case a.Status == http.StatusRequestEntityTooLarge && !a.Foreign:
		r.add(Problem, "probe_limited", fmt.Sprintf("the ingress does not accept a body of %s", terminal.Bytes(size)), "it runs with a smaller INGRESS_MAX_BODY than these settings have", restart)
	case a.Status == http.StatusRequestEntityTooLarge:
		r.add(Problem, "probe_limited", fmt.Sprintf("a proxy at %s does not accept a body of %s", url, terminal.Bytes(size)), "larger webhooks are rejected on every retry, and are then lost",
			fmt.Sprintf("client_max_body_size %dm;  # of nginx; other proxies have a limit as well", size>>20+1))
	case a.Foreign:
		r.add(Problem, "probe_intercepted", fmt.Sprintf("the probe of %s was answered %v", terminal.Bytes(size), a), "such webhooks do not reach the ingress, or its answer does not reach the sender",
			fmt.Sprintf("curl -i --data '{}' %s  # the ingress answers 401; other statuses are those of a proxy or another server, whose log has the reason", url))
	case a.Status == http.StatusNotFound:
		r.add(Problem, "probe_path", fmt.Sprintf("the ingress has nothing at the path at which the probe arrived, but at %s", d.Settings.Path), "a proxy changes the path, or the URL is not that of the endpoint",
			fmt.Sprintf("proxy_pass http://%s;  # of nginx: with nothing after the port, so that it passes on %s unchanged", d.Settings.Listen, d.Settings.Path))
	case a.Status == http.StatusUnauthorized && strings.HasPrefix(d.rejectedNow(ctx), "timestamp_too"):
		r.add(Problem, "probe_clock", "the ingress rejects the timestamp of the probe", fmt.Sprintf("the clocks of this machine and of the ingress differ by more than INGRESS_TOLERANCE (%s)", d.Settings.Tolerance), syncClock)
	case a.Status == http.StatusUnauthorized && d.rejectedNow(ctx) == "missing_header":
		r.add(Problem, "probe_headers", "the signature headers of the probe did not arrive", "a proxy removes or renames them, and webhooks are rejected like the probe",
			"proxy_pass_request_headers on;  # of nginx: Svix-Id, Svix-Timestamp and Svix-Signature must pass unchanged")
	case a.Status == http.StatusUnauthorized && d.sameSecrets:
		r.add(Problem, "probe_changed", fmt.Sprintf("the ingress has secret %d of these settings, and rejects the probe", secret), "a proxy changes headers or bodies",
			remedy)
	case a.Status == http.StatusUnauthorized:
		r.add(Problem, "probe_unauthorized", fmt.Sprintf("the ingress does not accept secret %d of these settings", secret),
			"it runs with other secrets, and rejects what is signed with this one", restart)
	case a.Status != http.StatusAccepted || a.Outcome != "quarantined":
		r.add(Problem, "probe_refused", fmt.Sprintf("the probe was answered %v, not 202", a), "webhooks are not answered as they should be",
			remedy)
	default:
		return true
	}
	return false
}

// withoutProxy returns a command that excludes the proxy, or remedy if there is none.
func (d *doctor) withoutProxy(remedy string) string {
	if d.ProbeURL != "" {
		return "versive-ingress doctor --probe  # without --url: if that succeeds, it is the proxy"
	}
	return remedy
}

// rejectedNow returns why the ingress has rejected a request since its metrics were
// read, or "".
func (d *doctor) rejectedNow(ctx context.Context) string {
	const name = "versive_ingress_last_unauthorized_timestamp_seconds"
	for _, s := range d.readMetrics(ctx).series(name) {
		if reason := string(s.Metric["reason"]); s.Value > d.metrics.where("reason", reason).sum(name) {
			return reason
		}
	}
	return ""
}

// collectProbe discards the probe from the quarantine, where it must be once.
func (d *doctor) collectProbe(ctx context.Context, r *Result, id string, body []byte, accepted bool) {
	ctx, cancel := d.bound(ctx, 5*broker.Timeout) // as many requests
	defer cancel()
	subject := schema.Quarantine(id, nil, &schema.Error{}, nil).Subject(d.Settings.Subject)
	name := schema.KindQuarantine.Stream(d.Settings.Stream)
	stream, err := publish.OpenStream(ctx, d.broker.JetStream, name)
	var msg *jetstream.RawStreamMsg
	if err == nil {
		msg, err = stream.GetLastMsgForSubject(ctx, subject)
	}
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound) && !accepted:
		return
	case errors.Is(err, jetstream.ErrMsgNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		r.add(Problem, "probe_lost", "the probe is not in stream "+name,
			"the ingress does not store in the stream of these settings, a proxy answers from its cache, or what is acknowledged is lost", d.withoutProxy("nats stream ls  # does the ingress have another INGRESS_STREAM?"))
		return
	case err != nil:
		r.unanswered("the probe in stream "+name, err, "nats stream info "+name)
		return
	}
	r.Seen += fmt.Sprintf("; read back as %s %d and discarded", name, msg.Sequence)
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err == nil && (info.State.Subjects[subject] != 1 || !bytes.Equal(msg.Data, body)) {
		r.add(Problem, "probe_not_once", fmt.Sprintf("the probe is in stream %s %d times, or was changed", name, info.State.Subjects[subject]),
			"duplicates are stored, or bodies are changed", "nats stream info "+name)
	}
	if err := d.broker.Eraser().Delete(ctx, publish.Copy{Kind: schema.KindQuarantine, Subject: subject, Sequence: msg.Sequence}); err != nil {
		r.add(Warning, "probe_left", fmt.Sprintf("the probe could not be discarded: %v", err), "it stays in the quarantine", "versive-ingress quarantine discard "+id)
	}
}
