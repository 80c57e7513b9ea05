// Package config reads the settings from the environment, checks them, and derives
// addresses and limits from them.
package config

import (
	"log/slog"
	"time"
)

// Settings are read from the environment, by Read alone.
//
// The tag desc is what serve --help prints. The comments of the fields, and the
// headings between them, are the text of docs/settings.md, which TestSettingsDocument
// writes.
type Settings struct {
	// ## Webhooks

	// Address on which webhooks are received, as `host:port`, or `:port` for all interfaces. With port 0 the system
	// chooses a port, and the log line `ready` reports it. The listener serves HTTP/1.1 and HTTP/2: with TLS if
	// `INGRESS_TLS_CERT` is set, otherwise in clear text. Behind a proxy on the same machine, use `127.0.0.1:8080`.
	Listen string `env:"INGRESS_LISTEN" default:":8080" desc:"address of the webhook listener"`

	// The only path on which webhooks are received; every other path is answered 404. It begins with `/` and contains no
	// space, control character, `?`, `#` or `%`. A request matches if its decoded path is exactly this one: a proxy in
	// front must pass it on unchanged, and the URL of the endpoint at Versive ends with it.
	Path string `env:"INGRESS_PATH" default:"/webhooks/versive" desc:"path of the webhook endpoint"`

	// Address of the admin listener, which serves the [status page](operations.md#the-page), `/livez`, `/readyz` and
	// `/metrics` without authentication, as `host:port` or `:port`. Keep it off the public network: bind it to loopback, or
	// let a network policy admit only the probes, Prometheus and operators: the page shows the ids of interviews. `health`
	// and `doctor` look for the ingress at this address, by loopback if it is on all interfaces.
	AdminListen string `env:"INGRESS_ADMIN_LISTEN" default:"127.0.0.1:9090" desc:"address of the admin listener, which serves the status page, /livez, /readyz and /metrics"`

	// Signing secrets of the webhook endpoint, separated by commas, as copied from the endpoint's page at Versive:
	// `whsec_` and the base64 encoding of at least 24 bytes. A webhook is accepted if any of them verifies it, so that a
	// secret can be [rotated](operations.md#rotate-secrets-certificates-and-credentials). At least one secret is required,
	// here or in `INGRESS_SECRETS_FILE`. A change takes a restart. With the secret of another endpoint, every webhook is
	// answered 401. Text that is often pasted with a secret does no harm: quotes, `v1,`, white space around it, a comment after
	// it, `INGRESS_SECRETS=`, base64 of the URL alphabet or without padding, or a second encoding for Kubernetes. Anything
	// else is refused with the reason, and so is a public key (`whpk_…`).
	//
	// With [several organizations](operations.md#several-organizations), put the name of each before its secrets, as in
	// `acme:whsec_…,globex:whsec_…`: 1 to 63 lower-case letters, digits and hyphens. Events then have the name of the
	// secret that has verified them. One secret under two names, or with a name and without one, is refused.
	Secrets []string `env:"INGRESS_SECRETS" desc:"signing secrets (whsec_…), comma separated; any of them is accepted; acme:whsec_… names its organization"`

	// File with further signing secrets, one a line; empty lines and text after a `#` are ignored. The text is UTF-8, or
	// UTF-16 with a byte order mark. The file is read again when it changes and on SIGHUP, so that a secret can be rotated
	// without a restart. The ingress does not start with a file that cannot be read or has an invalid secret; later, the
	// earlier secrets stay in use, the log reports the error, and
	// `versive_ingress_config_last_reload_successful{source="secrets"}` becomes 0. Make it readable by the ingress alone.
	SecretsFile string `env:"INGRESS_SECRETS_FILE" desc:"file with further signing secrets, one a line; reread when it changes"`

	// Largest accepted difference between the signed timestamp of a webhook and the clock, in both directions: a duration
	// from `1s` to `24h`. It limits for how long a recorded request can be sent again. If it is too small, or the clock is
	// wrong, genuine webhooks are answered 401 with the reason `timestamp_too_old` or `timestamp_too_new` in log and
	// metrics.
	Tolerance time.Duration `env:"INGRESS_TOLERANCE" default:"5m" desc:"largest accepted difference between a webhook's timestamp and the clock"`

	// Largest accepted body, a size of up to `31MiB`. A larger body is answered 413, and Versive gives up on it after its
	// retries. The broker must accept messages that are 128 KiB larger (64 KiB each for the canonical form and the
	// headers). An embedded broker is configured accordingly. With an external one whose `max_payload` is too small, the
	// ingress does not start if this setting is set; otherwise the limit follows `max_payload`, and a warning is logged.
	MaxBody Size `env:"INGRESS_MAX_BODY" shown:"8MiB, or what the broker's max_payload leaves room for" desc:"largest accepted body"`

	// Memory for bodies that are being received or wait to be stored, a size of at least 4/3 of `INGRESS_MAX_BODY`. When
	// it is used up, the slowest uploads are answered 503; a quarter is reserved for bodies of up to 64 KiB. Bodies are
	// copied while they are verified and stored, so allow the process
	// [two and a half times as much](operations.md#sizing). If it is too small, large webhooks are answered 503 with the
	// reason `too_much_in_flight` during bursts.
	MaxInflight Size `env:"INGRESS_MAX_INFLIGHT" default:"256MiB" desc:"memory for bodies in flight, beyond which the slowest uploads are answered 503"`

	// Certificate of the webhook listener: a PEM file with the leaf first, then the intermediate certificates. With it and
	// `INGRESS_TLS_KEY`, which must be set too, the listener serves HTTPS (TLS 1.2 and 1.3); without them, clear text for
	// a proxy that terminates TLS. Both files are read again when they change and on SIGHUP. The ingress does not start
	// with files that cannot be used; later, the earlier certificate stays in use, also if the new one has expired.
	TLSCert string `env:"INGRESS_TLS_CERT" desc:"certificate of the webhook listener, a PEM file; reread when it changes"`

	// Private key of `INGRESS_TLS_CERT`, a PEM file.
	TLSKey string `env:"INGRESS_TLS_KEY" desc:"private key of INGRESS_TLS_CERT, a PEM file"`

	// ## Connection to the broker

	// Addresses of an external NATS server or cluster with JetStream, separated by commas, such as
	// `nats://nats-1:4222,nats://nats-2:4222`. The schemes are `nats`, `tls`, `ws` and `wss`. Without it, an embedded
	// broker runs in the process. A server that does not answer is waited for indefinitely: `/readyz` fails, the log has a
	// warning, and webhooks are answered 503. The ingress does not start if the server rejects the credentials. To make an
	// acknowledged event survive a power loss, the server needs `sync_interval: always` or several replicas; see
	// [a NATS server of your own](operations.md#a-nats-server-of-your-own).
	NATSURL string `env:"INGRESS_NATS_URL" shown:"the embedded broker" desc:"addresses of an external NATS server or cluster, comma separated"`

	// Credentials file of a NATS user: its JWT and its seed, as `nsc` writes them. It requires `INGRESS_NATS_URL` or
	// `INGRESS_NATS_CONFIG`, and excludes `INGRESS_NATS_NKEY`. The file is read again for every new connection; a file
	// that cannot be used, or whose JWT has expired, leaves the earlier credentials in use.
	NATSCreds string `env:"INGRESS_NATS_CREDS" desc:"credentials file of the NATS user (JWT and seed)"`

	// Seed file of a NATS user that the broker knows by its NKey. It requires `INGRESS_NATS_URL` or `INGRESS_NATS_CONFIG`,
	// and excludes `INGRESS_NATS_CREDS`. The file is read again like a credentials file.
	// [deploy/nats/users.conf](../deploy/nats/users.conf) has users with the permissions that the ingress, operators and
	// subscribers need.
	NATSNKey string `env:"INGRESS_NATS_NKEY" desc:"NKey seed file of the NATS user"`

	// Certificates of the authorities by which the broker's certificate is verified, a PEM file. Without it, those of the
	// system are used. It makes the connection use TLS.
	NATSCA string `env:"INGRESS_NATS_CA" desc:"CA certificates that verify the broker, a PEM file"`

	// Client certificate that is presented to the broker, a PEM file. `INGRESS_NATS_KEY` must be set too.
	NATSCert string `env:"INGRESS_NATS_CERT" desc:"client certificate for the broker, a PEM file"`

	// Private key of `INGRESS_NATS_CERT`, a PEM file.
	NATSKey string `env:"INGRESS_NATS_KEY" desc:"private key of INGRESS_NATS_CERT, a PEM file"`

	// ## Forwarding to a hub

	// Addresses of the NATS servers of a hub with JetStream, separated by commas, as in `INGRESS_NATS_URL`. With it, the
	// ingress is [an edge](edge.md): its embedded broker stores events whatever the connection to the hub does, and each
	// event is forwarded to the hub's streams of the same names, in order and exactly once. Quarantined webhooks, dead
	// letters and erasures are forwarded as well, and erasures at the hub come down. The ingress starts, is ready and
	// accepts webhooks while the hub is away. It excludes `INGRESS_NATS_URL`.
	ForwardURL string `env:"INGRESS_FORWARD_URL" desc:"addresses of the hub's NATS servers, to which events are forwarded, comma separated"`

	// Credentials file of the ingress's user at the hub, like `INGRESS_NATS_CREDS`.
	ForwardCreds string `env:"INGRESS_FORWARD_CREDS" desc:"credentials file of the NATS user at the hub (JWT and seed)"`

	// Seed file of the ingress's user at the hub, like `INGRESS_NATS_NKEY`. [deploy/nats/hub.conf](../deploy/nats/hub.conf)
	// has a user with the permissions that an edge needs.
	ForwardNKey string `env:"INGRESS_FORWARD_NKEY" desc:"NKey seed file of the NATS user at the hub"`

	// Certificates of the authorities by which the hub's certificate is verified, a PEM file, like `INGRESS_NATS_CA`.
	ForwardCA string `env:"INGRESS_FORWARD_CA" desc:"CA certificates that verify the hub, a PEM file"`

	// Client certificate that is presented to the hub, a PEM file. `INGRESS_FORWARD_KEY` must be set too.
	ForwardCert string `env:"INGRESS_FORWARD_CERT" desc:"client certificate for the hub, a PEM file"`

	// Private key of `INGRESS_FORWARD_CERT`, a PEM file.
	ForwardKey string `env:"INGRESS_FORWARD_KEY" desc:"private key of INGRESS_FORWARD_CERT, a PEM file"`

	// Replicas of the hub's streams, from 1 to 5; 3 at a hub that is a cluster of three servers. The streams are created
	// if they do not exist. The replicas of existing ones are only raised.
	ForwardReplicas int `env:"INGRESS_FORWARD_REPLICAS" default:"1" desc:"replicas of the hub's streams; 3 at a cluster"`

	// ## Embedded broker

	// These settings have no meaning with `INGRESS_NATS_URL`. The ingress does not start if one of them, except for
	// `INGRESS_DATA_DIR`, is set as well.

	// Directory of the streams and of the [high-water marks](operations.md#losses). It is created if it does not exist,
	// and belongs to one process: a second one on it does not start. It must be on a local disk; the image uses `/data`,
	// and the systemd unit `/var/lib/versive-ingress`. An empty directory in place of the right one is taken for a first
	// start, so make the start depend on the mount of its volume.
	DataDir string `env:"INGRESS_DATA_DIR" default:"./data" desc:"directory of the embedded broker's streams"`

	// Address on which subscribers connect, and commands such as `replay`, as `host:port`. An address that is not loopback
	// requires users in `INGRESS_NATS_CONFIG`: otherwise anyone on the network could read interviews and write events. It
	// must not be set if that file has a listener.
	NATSListen string `env:"INGRESS_NATS_LISTEN" shown:"127.0.0.1:4222" desc:"address on which subscribers connect to the embedded broker"`

	// Configuration file of nats-server for everything else: accounts and users, TLS, leaf nodes, a cluster. It is read at
	// the start only; a later change is reported by the log, a metric and `doctor`. `store_dir` must be absent or equal to
	// `INGRESS_DATA_DIR`; `sync_interval: always` holds in any case, and `max_payload` is raised to what `INGRESS_MAX_BODY`
	// needs. With users in it, the ingress needs `INGRESS_NATS_NKEY` or `INGRESS_NATS_CREDS`. Streams that exist already
	// belong to another account then; [move them](operations.md#give-the-store-users-or-move-it-to-a-cluster). A listener
	// that is not loopback requires authorization: users or, for the routes of a cluster and gateways, `authorization` or
	// `tls` of their own. Each server of a [cluster](operations.md#three-ingresses-one-site) needs a name: `server_name`,
	// or else the host name of the first start, which the data directory remembers. The ports for monitoring and profiling
	// have no authorization, so they must be loopback.
	NATSConfig string `env:"INGRESS_NATS_CONFIG" desc:"nats-server configuration file for the embedded broker: users, TLS, leaf nodes, a cluster"`

	// Largest total size of the streams on the disk. At the limit webhooks are answered 503, nothing that is stored is
	// discarded, and storing goes on as soon as there is room. Keep it below the size of the volume, for example at 80 %
	// of it: a full disk stops the broker until there is space again. Without this setting, the limit is `max_file_store`
	// of `INGRESS_NATS_CONFIG` or, if there is none, 80 % of what is stored and free together. It does not change
	// as events are stored, only with the size of the volume and with what else is on it. It is measured at the start, and
	// again when the store is full and the disk has more space than at the last measurement.
	MaxStore Size `env:"INGRESS_MAX_STORE" shown:"80 % of what is stored and free on the volume" desc:"largest total size of the embedded broker's streams"`

	// ## Streams

	// Name of the event stream: 1 to 64 letters, digits, `_` and `-`. The quarantine and the dead letters have streams
	// whose names add `_QUARANTINE` and `_DEAD` to it, so it must not end in these itself. A stream that does not exist is
	// created; a stream of another ingress is rejected. With another name than before, the ingress begins with an empty
	// stream, and consumers of the old one receive nothing new.
	Stream string `env:"INGRESS_STREAM" default:"VERSIVE" desc:"name of the event stream"`

	// First token of the events' subjects: 1 to 32 letters, digits, `_` and `-`, of which the first is a letter or digit.
	// The other two streams add `-quarantine` and `-dead` to it, so it must not end in these itself. A change adds the new
	// subject to an existing stream; events that are stored under the old one are then recognized as duplicates only
	// within `INGRESS_DEDUPE_WINDOW`.
	Subject string `env:"INGRESS_SUBJECT" default:"versive" desc:"first token of the events' subjects"`

	// Replicas of each stream, from 1 to 5; 3 on a cluster of three servers. More than one requires a cluster, in
	// `INGRESS_NATS_URL` or `INGRESS_NATS_CONFIG`. The replicas of an existing stream are only raised; to lower them, use
	// `nats stream edit VERSIVE --replicas 1`.
	Replicas int `env:"INGRESS_REPLICAS" default:"1" desc:"replicas of each stream; 3 on a cluster"`

	// Largest size of each of the three streams when it is created: a size, or 0. It is for accounts that require a limit
	// (`max_bytes_required`); the broker reserves that much for each stream. A full stream rejects new messages and keeps
	// the old ones. Dead letters have the limit of the event stream if the account requires one. The limit of an existing
	// stream is not changed; use `nats stream edit VERSIVE --max-bytes 10GiB`.
	StreamMaxBytes Size `env:"INGRESS_STREAM_MAX_BYTES" shown:"0, unlimited" desc:"largest size of each stream when it is created; for accounts that require one"`

	// How long events, quarantined webhooks and dead letters are kept: a duration of at least `1s`, such as `2160h` for 90
	// days, or 0. The age of an existing stream is only raised; to shorten it, use
	// `nats stream edit VERSIVE --max-age 720h`. Dead letters never outlive events. An age below `INGRESS_DEDUPE_WINDOW`
	// shortens that window, and a warning is logged. An event that has expired is stored again if it is resent; Versive
	// can resend for 90 days. With `INGRESS_FORWARD_URL`, it is the ingress that removes what is older, and only what the
	// hub has confirmed: the streams of the edge have no maximum age. That of the hub's streams is set at the hub.
	MaxAge time.Duration `env:"INGRESS_MAX_AGE" default:"0" shown:"0, unlimited" desc:"how long events are kept"`

	// JetStream's duplicate window: for how long the broker remembers the id of a message, and until it restarts also that
	// of a deleted one; a duration of at least `1s`. Keep it above the 27 h 35 m for which Versive retries. While an event
	// is in the stream, a resend is recognized without the window as well. An id takes about 130 bytes of the broker's
	// memory. The window of an existing stream is only raised; to shorten it, use
	// `nats stream edit VERSIVE --dupe-window 36h`.
	DedupeWindow time.Duration `env:"INGRESS_DEDUPE_WINDOW" default:"48h" desc:"JetStream's duplicate window; keep it above Versive's retries, 27 h 35 m"`

	// ## Publishing

	// How long storing an event may take, retries included: a duration from `100ms` to `9s`. After it the webhook is
	// answered 503 with the reason `no_answer`, and Versive sends it again. The upper bound leaves 5 s for the body and 1
	// s for the network of the 15 s for which Versive waits.
	PublishTimeout time.Duration `env:"INGRESS_PUBLISH_TIMEOUT" default:"8s" desc:"how long storing an event may take"`

	// How events that arrive at the same time are committed. `batch` stores those that wait in one atomic batch, with one
	// fsync for all of them. `single` publishes each by itself. `auto` is `batch` for an embedded broker with one replica,
	// and `single` otherwise. The promise is the same in every mode. Set `batch` for an external server with one replica
	// and `sync_interval: always`, which the ingress cannot detect; in the mode `single`, such a server syncs once for
	// each event.
	PublishMode string `env:"INGRESS_PUBLISH_MODE" default:"auto" desc:"batch, single or auto; use batch for an external single-replica server with sync_interval: always"`

	// ## Process

	// How long webhooks are accepted after SIGTERM while `/readyz` already fails, a duration. Behind a load balancer, set
	// it to more than the balancer needs to notice: the interval of its probes times the failures that it waits for, plus
	// a second. If it is too short, the balancer sends webhooks to an ingress that has ended; Versive resends them.
	DrainDelay time.Duration `env:"INGRESS_DRAIN_DELAY" default:"0s" desc:"keep accepting webhooks for this long after SIGTERM, while /readyz already fails"`

	// How long requests in flight may take after the ingress has stopped accepting webhooks, a duration. Those that take
	// longer are cut off, and Versive sends them again. The supervisor must wait for this, `INGRESS_DRAIN_DELAY` and the
	// 10 s that the store has to stop, together, before it kills the process: `TimeoutStopSec` of systemd,
	// `terminationGracePeriodSeconds` of Kubernetes, `stop_grace_period` of Compose.
	ShutdownTimeout time.Duration `env:"INGRESS_SHUTDOWN_TIMEOUT" default:"20s" desc:"how long requests in flight may take at shutdown"`

	// Lowest level that is logged: `debug`, `info`, `warn` or `error`. The log goes to the standard error. Stored webhooks
	// are logged at `info`, so with `warn` a stored event leaves no line.
	LogLevel slog.Level `env:"INGRESS_LOG_LEVEL" default:"info" desc:"lowest level that is logged: debug, info, warn or error"`

	// Format of the log: `text`, or `json` with one object a line.
	LogFormat string `env:"INGRESS_LOG_FORMAT" shown:"text on a terminal, otherwise json" desc:"format of the log: text or json"`
}
