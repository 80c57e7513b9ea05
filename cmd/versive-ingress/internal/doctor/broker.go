package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/publish/access"
	"versive-ingress/publish/embedded"
)

func (d *doctor) checkBroker(ctx context.Context, r *Result) {
	if err := cmp.Or(d.Settings.CheckBroker(), d.Settings.CheckFiles()); err != nil {
		r.unanswered("the broker", err, "versive-ingress serve --help")
		return
	}
	conn, err := broker.Open(context.WithoutCancel(ctx), d.Settings, "doctor", nats.ErrorHandler(d.deny)) // later checks use it
	if failure, ok := errors.AsType[*broker.Failure](err); ok {
		level := Unknown
		if failure.Permanent {
			level = Problem
		}
		r.add(level, failure.ID, failure.Found, "nothing can be stored", failure.Remedy)
		return
	}
	if err != nil {
		r.fails("credentials_unusable", err, "serve does not start with them", "versive-ingress serve --help")
		return
	}
	d.broker = conn
	nc := conn.NC
	r.Seen = fmt.Sprintf("nats-server %s at %s", nc.ConnectedServerVersion(), publish.Addresses(nc.ConnectedUrlRedacted()))
	d.account, err = conn.JetStream.AccountInfo(ctx)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		r.add(Problem, "no_jetstream", "the broker has no JetStream for this account", "events cannot be stored",
			`jetstream { store_dir: /data, sync_interval: always }  # in the server's configuration; with accounts, "jetstream: enabled" in this one`)
		return
	case err != nil:
		remedy := "nats account info"
		if nc.ConnectedClusterName() != "" {
			unit := "nats-server"
			if !d.external() {
				unit = "versive-ingress"
			}
			remedy = "sudo systemctl start " + unit + "  # on the other servers: most servers of the cluster must run; then: nats account info"
		}
		r.unanswered("JetStream", err, remedy)
		return
	}
	r.when(d.account.API.Level < 2, Warning, "broker_version", "the broker is nats-server "+nc.ConnectedServerVersion(),
		"before 2.12 there are no atomic batches: every event needs its own commit", "nats-server --version  # upgrade it to 2.12 or later")
	d.checkPayload(r, nc.MaxPayload())
	d.checkSync(ctx, r)
}

func (d *doctor) checkPayload(r *Result, payload int64) {
	room, body := max(config.BodyRoom(payload), 0), d.Settings.BodyLimit()
	if room >= body {
		return
	}
	level, why := Problem, "serve does not start, because larger bodies would be rejected on every retry"
	if d.Settings.MaxBody == 0 && room > 0 {
		level, why = Warning, "larger bodies are rejected on every retry"
	}
	remedy := fmt.Sprintf("max_payload: %d  # in the server's configuration, then: nats-server --signal reload", d.Settings.MaxPayload())
	if !d.external() {
		remedy = restart + "  # its broker follows INGRESS_MAX_BODY"
	}
	r.add(level, "max_payload", fmt.Sprintf("the broker accepts bodies of %v, not of %v", config.Size(room), config.Size(body)), why, remedy)
}

// checkSync checks whether the broker syncs every event to the disk before it
// acknowledges it. An external server reports that only on its monitoring port.
func (d *doctor) checkSync(ctx context.Context, r *Result) {
	// The operator reaches an embedded broker from another machine by INGRESS_NATS_URL.
	embedded := d.broker.NC.ConnectedServerName() == "versive-ingress" && len(d.metrics.series("versive_ingress_store_max_bytes")) > 0
	switch {
	case !d.external(), embedded && len(d.Monitors) == 0:
		r.Seen += ", sync_interval: always"
		return
	case len(d.Monitors) == 0 && d.Settings.Replicas > 1:
		r.Seen += ", sync_interval unknown but replicated"
	case len(d.Monitors) == 0:
		r.Seen += ", sync_interval unknown"
		r.add(Unknown, "sync_unknown", "it is unknown whether the broker syncs every event to its disk, and there is one replica",
			"by default it syncs every 2 minutes, and a power loss loses events that were answered 2xx",
			"versive-ingress doctor --monitor http://127.0.0.1:8222  # the server's monitoring port")
	}
	for _, address := range d.Monitors {
		d.checkMonitor(ctx, r, address)
	}
}

func (d *doctor) checkMonitor(ctx context.Context, r *Result, address string) {
	var info server.JSInfo
	response, text, err := Get(ctx, strings.TrimSuffix(address, "/")+"/jsz")
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &info)
	}
	if err != nil {
		r.unanswered("the monitoring port at "+redacted(address), err, fmt.Sprintf("curl -s %s/jsz", redacted(address)))
		return
	}
	limit, interval := info.Config.MaxStore, "always"
	if !info.Config.SyncAlways {
		interval = info.Config.SyncInterval.String()
	}
	r.Seen += ", sync_interval: " + interval
	r.limit("broker_full", "JetStream of the broker", "bytes", info.Store, limit,
		fmt.Sprintf("max_file_store: %d  # in the server's configuration, below the size of its disk", 2*limit))
	r.when(d.broker.NC.ConnectedClusterName() == "" && info.ID != d.broker.NC.ConnectedServerId(), Unknown, "monitor_of_another",
		"the monitoring port at "+redacted(address)+" is not that of the broker", "the fsync policy of the broker is unknown",
		"versive-ingress doctor --monitor http://127.0.0.1:8222  # the monitoring port of the server in INGRESS_NATS_URL")
	r.when(interval != "always" && d.Settings.Replicas == 1, Problem, "sync_lazy", fmt.Sprintf("the broker syncs its disk every %s, and there is one replica", interval),
		"a power loss loses events that were answered 2xx", "jetstream { sync_interval: always }  # in the server's configuration, then restart it")
}

const (
	lowDisk  = 1 << 30  // less space than a store of any use needs
	fullDisk = 16 << 20 // less than an event of the default size and its batch need
)

// checkStore compares what is stored with the limits of the account and the disk.
func (d *doctor) checkStore(_ context.Context, r *Result) {
	for _, tier := range append(slices.Collect(maps.Values(d.account.Tiers)), d.account.Tier) {
		limit := tier.Limits.MaxStore
		r.limit("account_full", "the account", "bytes", tier.Store, limit, fmt.Sprintf("jetstream: { max_file: %d }  # in the account's configuration", 2*limit))
	}
	if d.external() {
		r.Seen = terminal.Bytes(d.account.Store) + " stored; the disk is the broker's"
		return
	}
	dir := d.Settings.DataDir
	free, stored, err := embedded.Disk(dir)
	if err != nil {
		r.unanswered("the disk of "+dir, access.AsOwner(access.Explain(err, dir), "doctor"), "df -h "+dir)
		return
	}
	d.checkFileSystem(r)
	r.when(embedded.IsScheduled(dir), Warning, "erased_content", "block files in "+dir+" have content of erased messages",
		"no command returns it, but whoever can read the disk can read it; the next start of the ingress overwrites it, and logs an error if it cannot", "systemctl restart versive-ingress")
	r.Seen = fmt.Sprintf("%s stored in %s, %s free", terminal.Bytes(stored), dir, terminal.Bytes(free))
	limit := cmp.Or(int64(d.Settings.MaxStore), int64(d.metrics.sum("versive_ingress_store_max_bytes")))
	larger := min(max(2*limit, 1<<30), stored+free/5*4)
	remedy := fmt.Sprintf("export INGRESS_MAX_STORE=%dMiB  # and restart", larger>>20)
	if larger <= limit {
		remedy = fmt.Sprintf("export INGRESS_MAX_AGE=720h  # and restart, to keep events for a shorter time; or enlarge the disk of %s first", dir)
	}
	r.limit("store_full", "the store", "bytes", uint64(stored), limit, remedy)
	room := fmt.Sprintf("df -h '%s'  # then enlarge the disk, or remove what other programs have written to it", dir)
	switch left := fmt.Sprintf("the disk of %s has %s left", dir, terminal.Bytes(free)); {
	case free < fullDisk:
		r.add(Problem, "disk_full", left, "webhooks are answered 503 until there is space", room)
	case limit-stored > free:
		if d.Settings.MaxStore > 0 {
			room = "unset INGRESS_MAX_STORE  # and restart: the default leaves a fifth of the disk free"
		}
		r.add(Warning, "store_over_disk", fmt.Sprintf("the store may grow by %s, and %s", terminal.Bytes(limit-stored), left),
			"on a full disk the broker stops until there is space; a full store only rejects new events", room)
	case limit == 0 && free < lowDisk:
		r.add(Warning, "disk_low", left, "a full store rejects webhooks until there is space", room)
	}
}
