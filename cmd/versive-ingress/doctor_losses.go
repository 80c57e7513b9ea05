package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
)

const (
	lossWhy    = "they were answered 2xx, so the sender does not resend them by itself"
	lossRemedy = "versive-ingress audit  # then what docs/operations.md says at Losses, and audit --acknowledge"
	// With an external broker the ingress keeps its reports in memory.
	lossRemedyExternal = "versive-ingress audit  # and the ingress's log; then what docs/operations.md says at Losses, and a restart of the ingress"
)

// checkLosses looks for losses that were reported and not acknowledged: in the
// data directory, whether the ingress runs or not, or else in its metrics.
func (d *doctor) checkLosses(context.Context) (seen string, findings []Finding) {
	remedy := lossRemedy
	if d.settings.NATSURL != "" {
		remedy = lossRemedyExternal
	}
	add := func(found string) {
		findings = append(findings, Finding{"events_lost", Problem, found, lossWhy, remedy})
	}
	err := fs.ErrNotExist
	if d.settings.NATSURL == "" {
		var losses []publish.Loss
		losses, _, err = publish.ReadLosses(d.settings.DataDir)
		for _, l := range losses {
			add(fmt.Sprintf("stream %s %v: %s", l.Stream, l.Problem, lostMessages(l.Sequences)))
		}
	}
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		findings = append(findings, unanswered("the high-water marks in INGRESS_DATA_DIR", err, "sudo -u versive-ingress versive-ingress doctor  # as the user that the ingress runs as"))
	case len(d.metrics["versive_ingress_stream_lost_events_total"].GetMetric()) == 0:
		return "not known: no ingress has seen the streams", nil
	default:
		for _, m := range d.metrics["versive_ingress_stream_lost_events_total"].GetMetric() {
			stream := label(m, "stream")
			left := func(name string) float64 {
				return d.value("versive_ingress_stream_"+name+"_total", "stream", stream) - d.value("versive_ingress_stream_"+name+"_acknowledged_total", "stream", stream)
			}
			if lost, recreated := left("lost_events"), left("recreated"); lost > 0 || recreated > 0 {
				add(fmt.Sprintf("stream %s has lost %s, and was deleted %s", stream, terminal.Plural(int(lost), "message", "messages"), terminal.Plural(int(recreated), "time", "times")))
			}
		}
	}
	if len(findings) == 0 {
		seen = "none that is not acknowledged"
	}
	return seen, findings
}
