package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/cmd/versive-ingress/internal/terminal"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
)

func (d *doctor) external() bool { return d.settings.NATSURL != "" }

// checkBroker connects to the broker, and looks at what it is.
func (d *doctor) checkBroker(ctx context.Context) (seen string, findings []Finding) {
	if !d.dialable {
		return "", []Finding{unanswered("the broker", errors.New("the settings do not say how to reach it"), "versive-ingress serve --help")}
	}
	add := func(id string, level Level, found, why, remedy string) {
		findings = append(findings, Finding{id, level, found, why, remedy})
	}
	// The connection outlives this check, and every question has a deadline.
	conn, err := broker.Open(context.WithoutCancel(ctx), d.settings, "doctor")
	if err != nil {
		return "", []Finding{d.unreachable(err)}
	}
	nc := conn.NC
	seen = fmt.Sprintf("nats-server %s at %s", nc.ConnectedServerVersion(), publish.Addresses(nc.ConnectedUrlRedacted()))
	if older(nc.ConnectedServerVersion(), 2, 12) {
		add("broker_version", Warning, "the broker is nats-server "+nc.ConnectedServerVersion(), "before 2.12 there are no atomic batches: every event costs a commit of its own",
			"nats-server --version  # upgrade it to 2.12 or later")
	}

	room := config.BodyRoom(nc.MaxPayload())
	body := d.settings.BodyLimit()
	if room < body {
		level, why := Problem, "serve does not start, for such a body would be refused again and again"
		if d.settings.MaxBody == 0 && room > 0 {
			level, why = Warning, fmt.Sprintf("bodies over %v are refused, and never come in", config.Size(room))
		}
		remedy := fmt.Sprintf("max_payload: %d  # in the server's configuration, then: nats-server --signal reload", nc.MaxPayload()+body-room)
		if !d.external() {
			remedy = restart + "  # its broker follows INGRESS_MAX_BODY"
		}
		add("max_payload", level, fmt.Sprintf("the broker takes messages of %v, and a body of %v needs more", config.Size(nc.MaxPayload()), config.Size(body)), why, remedy)
	}

	if _, err := conn.JetStream.AccountInfo(ctx); err != nil {
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			add("no_jetstream", Problem, "the broker has no JetStream for this account", "there is nowhere to store events",
				`jetstream { store_dir: /data, sync_interval: always }  # in the server's configuration; with accounts, "jetstream: enabled" in this one`)
		} else {
			findings = append(findings, unanswered("JetStream", err, "nats account info"))
		}
		conn.Close()
		return seen, findings
	}
	d.broker = conn
	syncs, unsafe := d.checkSync(ctx)
	return seen + "; " + syncs, append(findings, unsafe...)
}

func (d *doctor) unreachable(err error) Finding {
	if publish.IsAuthError(err) {
		return Finding{
			"broker_refuses", Problem, fmt.Sprintf("the broker at %s refuses these credentials", publish.Addresses(broker.URL(d.settings))), "nothing can be stored",
			"export INGRESS_NATS_CREDS=/path/to/user.creds  # or INGRESS_NATS_NKEY",
		}
	}
	remedy := "versive-ingress serve  # the embedded broker runs in it"
	if d.external() {
		remedy = fmt.Sprintf("nats --server '%s' server check connection  # is INGRESS_NATS_URL right, and the server up?", publish.Addresses(d.settings.NATSURL))
	}
	return Finding{"broker_unreachable", Unknown, err.Error(), "nothing can be stored while it is away", remedy}
}

// older reports whether a version of nats-server is before another. One that
// cannot be read is new.
func older(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 3 {
		return false
	}
	x, err1 := strconv.Atoi(parts[0])
	y, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (x < major || x == major && y < minor)
}

// checkSync finds out whether an acknowledged event is on a disk. The protocol
// of clients has no word for it; the monitoring of a server has.
func (d *doctor) checkSync(ctx context.Context) (seen string, findings []Finding) {
	if !d.external() {
		return "it syncs always", nil
	}
	replicated := d.settings.Replicas > 1
	for _, address := range d.monitors {
		server, err := askMonitor(ctx, address)
		if err != nil {
			return "", []Finding{unanswered("monitoring at "+redacted(address), err, fmt.Sprintf("curl -s %s/jsz", redacted(address)))}
		}
		if server.Config.MaxStore > 0 {
			findings = append(findings, fullness("broker_full", "JetStream of the broker", server.Store, server.Config.MaxStore,
				fmt.Sprintf("max_file_store: %d  # in the server's configuration, below the size of its disk", 2*server.Config.MaxStore))...)
		}
		if !server.Config.SyncAlways && !replicated {
			findings = append(findings, Finding{
				"sync_lazy", Problem, fmt.Sprintf("the broker syncs its disk every %v, and there is one replica", time.Duration(server.Config.SyncInterval)),
				"a power loss takes events that were answered 2xx", "jetstream { sync_interval: always }  # in the server's configuration, then restart it",
			})
		}
		seen = "it syncs always"
		if !server.Config.SyncAlways {
			seen = "it syncs later"
		}
	}
	switch {
	case len(d.monitors) > 0:
	case replicated:
		seen = "whether it syncs always is not known; replicas stand in for each other"
	default:
		seen = "whether it syncs always is not known"
		findings = append(findings, Finding{
			"sync_unknown", Warning, "whether the broker syncs its disk for every event is not known, and there is one replica",
			"by default it syncs every 2 minutes, and a power loss takes events that were answered 2xx",
			"versive-ingress doctor --monitor http://127.0.0.1:8222  # the server's monitoring port",
		})
	}
	return seen, findings
}

// redacted returns a URL as it may be shown: without a password.
func redacted(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(not a URL)"
	}
	return u.Redacted()
}

// A monitored server is what the monitoring port of a NATS server says of its
// JetStream.
type monitored struct {
	Store  uint64 `json:"storage"`
	Config struct {
		MaxStore     int64 `json:"max_storage"`
		SyncAlways   bool  `json:"sync_always"`
		SyncInterval int64 `json:"sync_interval"` // in nanoseconds
	} `json:"config"`
}

func askMonitor(ctx context.Context, address string) (m monitored, err error) {
	status, text, err := getText(ctx, strings.TrimSuffix(address, "/")+"/jsz")
	if err == nil && status != http.StatusOK {
		err = errors.New(http.StatusText(status))
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &m)
	}
	return m, err
}

// nearly is the part of a limit from which on there is a warning.
const nearly = 0.9

// fullness finds what is at its limit, in bytes, or close to it.
func fullness(id, what string, used uint64, limit int64, remedy string) []Finding {
	f := Finding{id, Problem, fmt.Sprintf("%s is full: %d bytes of %d", what, used, limit), "webhooks are answered 503, and the sender gives up after 27 h 35 m", remedy}
	switch share := float64(used) / float64(limit); {
	case used+smallEvent > uint64(limit):
		return []Finding{f}
	case share >= nearly:
		f.Level, f.Found = Warning, fmt.Sprintf("%s is %.0f %% full: %d bytes of %d", what, 100*share, used, limit)
		return []Finding{f}
	}
	return nil
}

// smallEvent is the room in bytes without which something is full.
const smallEvent = 4 << 10

// checkClock compares the clock with the broker's. A webhook is accepted by the
// clock of the ingress, and found again by the broker's.
func (d *doctor) checkClock(ctx context.Context) (seen string, findings []Finding) {
	before := d.now()
	stream, err := d.broker.JetStream.Stream(ctx, d.settings.Stream)
	if err != nil {
		return "not known: there is no stream to ask for its time", nil
	}
	elapsed := d.now().Sub(before)
	away := stream.CachedInfo().TimeStamp.Sub(before.Add(elapsed / 2))
	apart := max(away.Abs()-elapsed/2, 0)
	if apart < d.settings.Tolerance/10 {
		return "agrees with the broker's", nil
	}
	level := Warning
	if apart >= d.settings.Tolerance {
		level = Problem
	}
	direction := "behind"
	if away < 0 {
		direction = "ahead of"
	}
	return "", []Finding{{
		"clock", level, fmt.Sprintf("the clock of this machine is %s %s the broker's", apart.Round(time.Second), direction),
		fmt.Sprintf("if this one is wrong, webhooks are refused: they may be %s old", d.settings.Tolerance), syncClock,
	}}
}

// checkStore compares what may be stored with what there is room for.
func (d *doctor) checkStore(ctx context.Context) (seen string, findings []Finding) {
	account, err := d.broker.JetStream.AccountInfo(ctx)
	if err != nil {
		return "", []Finding{unanswered("the account's limits", err, "nats account info")}
	}
	tiers := []jetstream.Tier{account.Tier}
	for _, t := range account.Tiers {
		tiers = append(tiers, t)
	}
	for _, t := range tiers {
		if t.Limits.MaxStore > 0 {
			findings = append(findings, fullness("account_full", "the account's store", t.Store, t.Limits.MaxStore,
				fmt.Sprintf("jetstream: { max_file: %d }  # in the account's configuration", 2*t.Limits.MaxStore))...)
		}
	}
	if d.external() {
		return terminal.Bytes(account.Store) + " stored; the disk is the broker's to watch", findings
	}

	dir := d.settings.DataDir
	free, stored, err := embedded.Disk(dir)
	if err != nil {
		return "", append(findings, unanswered("the disk of "+dir, err, "df -h "+dir))
	}
	seen = fmt.Sprintf("%s stored in %s, %s free", terminal.Bytes(stored), dir, terminal.Bytes(free))
	limit := cmp.Or(int64(d.settings.MaxStore), int64(d.value("versive_ingress_store_max_bytes")))
	if limit > 0 {
		findings = append(findings, fullness("store_full", "the store", uint64(stored), limit, fmt.Sprintf("export INGRESS_MAX_STORE=%dMiB  # and restart", (2*limit)>>20))...)
		if limit-stored > free {
			findings = append(findings, Finding{
				"store_over_disk", Warning, fmt.Sprintf("the store may grow by %s, and the disk has %s", terminal.Bytes(limit-stored), terminal.Bytes(free)),
				"a disk that runs full stops the broker until it is restarted; at its limit the store refuses, and goes on when there is room",
				fmt.Sprintf("export INGRESS_MAX_STORE=%dMiB  # and restart", (stored+free/5*4)>>20),
			})
		}
	}
	if free < lowDisk {
		findings = append(findings, Finding{
			"disk_low", Warning, fmt.Sprintf("the disk of %s has %s left", dir, terminal.Bytes(free)),
			"a disk that runs full stops the broker until it is restarted", "df -h " + dir,
		})
	}
	return seen, findings
}

// lowDisk is what a disk should have left, in bytes.
const lowDisk = 512 << 20
