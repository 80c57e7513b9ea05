package doctor

import "fmt"

// checkReloads reports files that have changed since the ingress started, and that it does
// not use.
func (d *doctor) checkReloads(r *Result) {
	for _, s := range d.metrics.series("versive_ingress_config_last_reload_successful") {
		switch source := string(s.Metric["source"]); {
		case s.Value != 0:
		case source == "broker":
			r.add(Warning, "config_changed", "INGRESS_NATS_CONFIG has changed since the ingress started, or cannot be read", "the embedded broker does not use the change before its next start, which fails if the file is invalid",
				restart+"  # one ingress of a cluster after the other; its log names the error, if there is one")
		default:
			r.add(Warning, "reload_failed", fmt.Sprintf("the files of the source %q have changed, and cannot be used", source), "their earlier content is in use, and the next start fails",
				"journalctl --unit versive-ingress --grep 'files cannot be used'  # names the file and the error")
		}
	}
}
