// Package broker connects commands to the broker that the settings name, with the
// credentials that they name.
package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"versive-ingress/cmd/versive-ingress/internal/config"
	"versive-ingress/publish"
	"versive-ingress/publish/embedded"
	"versive-ingress/schema"
	"versive-ingress/subscribe"
)

// A Connection is how a command reaches the streams beside the running ingress.
type Connection struct {
	Settings  config.Settings
	NC        *nats.Conn
	JetStream jetstream.JetStream
	Source    subscribe.Source
}

// Dial reads the settings of serve from the environment, checks those about the
// broker, and calls Open. If the connection is lost, requests wait until it is
// reestablished, and the standard error reports both. If the broker denies a request, the
// connection is closed; see [ExplainDenial].
func Dial(ctx context.Context, name string) (*Connection, error) {
	s, err := config.Read()
	if err != nil {
		return nil, err
	}
	if err := s.CheckBroker(); err != nil {
		return nil, err
	}
	address := publish.Addresses(Endpoint(s).Address())
	return Open(ctx, s, name, DenialHandler,
		nats.PingInterval(5*time.Second), // to notice a broker that hangs
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil if it was closed here
				fmt.Fprintf(os.Stderr, "versive-ingress: the connection to the broker at %s is lost: %v; waiting for it to accept connections\n", address, err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { fmt.Fprintln(os.Stderr, "versive-ingress: connected to the broker again") }),
	)
}

// denial is the first error of [DenialHandler].
var denial atomic.Pointer[error]

// DenialHandler closes a connection if its user lacks a permission. The broker reports
// that on the connection, and does not reply to the request, which would time out.
var DenialHandler = nats.ErrorHandler(func(nc *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		denial.CompareAndSwap(nil, &err)
		nc.Close()
	}
})

// ExplainDenial returns the text of an error of a command. If the broker has denied a
// request, that replaces the closed connection as the cause, and a remedy is added.
func ExplainDenial(err error) string {
	const remedy = "; set INGRESS_NATS_NKEY or INGRESS_NATS_CREDS to those of a user with the permission, such as the operator of deploy/nats/users.conf, or give it to this one"
	text, closed := err.Error(), nats.ErrConnectionClosed.Error()
	if denied := denial.Load(); denied != nil {
		cause := (*denied).Error() + remedy
		text = strings.NewReplacer("unreachable: "+closed, cause, closed, cause).Replace(text)
		if !strings.Contains(text, cause) {
			text += ": " + cause
		}
	} else if errors.Is(err, nats.ErrPermissionViolation) {
		text += remedy
	}
	return strings.ReplaceAll(text, nats.ErrPermissionViolation.Error(), "the broker denies the request")
}

// Open connects to the broker of s, as checked by CheckBroker, with name as a part of
// the client's name, and the given options. The connection reconnects without limit
// and is closed when ctx ends, or by Close.
func Open(ctx context.Context, s config.Settings, name string, options ...nats.Option) (*Connection, error) {
	nc, err := Connect(Endpoint(s), name, append(options,
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500*time.Millisecond),
	)...)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, nc.Close) // otherwise a request to a broker that is away would hold up Ctrl-C
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &Connection{s, nc, js, subscribe.Source{JetStream: js, Stream: s.Stream, Subject: s.Subject}}, nil
}

// Eraser returns what erases messages of the streams.
func (c *Connection) Eraser() publish.Eraser {
	return publish.Eraser{JetStream: c.JetStream, Stream: c.Settings.Stream, CLI: CLI(Endpoint(c.Settings))}
}

// CheckDelete returns an error if the user may not delete messages of a kind, for which
// tombstones would be put first.
func (c *Connection) CheckDelete(ctx context.Context, kind schema.Kind) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	name := kind.Stream(c.Settings.Stream)
	// A request without content is rejected, and nothing is deleted.
	if _, err := c.NC.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.DELETE."+name, nil); err != nil {
		return fmt.Errorf("asking for the permission to delete from stream %s: %w", name, err)
	}
	return nil
}

// Close closes the connection.
func (c *Connection) Close() { c.NC.Close() }

// Connect opens a connection to an endpoint, with its credentials and the given options.
func Connect(e config.Endpoint, name string, options ...nats.Option) (*nats.Conn, error) {
	credentials := NewCredentials(e)
	if err := credentials.Load(); err != nil {
		return nil, err
	}
	options = append([]nats.Option{
		credentials.Option,
		nats.Name("versive-ingress " + name),
		nats.Timeout(Timeout),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // callers report what fails
	}, options...)
	nc, err := nats.Connect(e.Address(), options...)
	if err != nil {
		return nil, credentials.Explain(err)
	}
	return nc, nil
}

// URL returns the address of the broker of s. That of an embedded broker is its
// listener: its store is locked by the process that serves it.
func URL(s config.Settings) string {
	if s.NATSURL != "" {
		return s.NATSURL
	}
	address, _ := config.Local(cmp.Or(s.NATSListen, embedded.Listener(s.NATSConfig), embedded.DefaultListen))
	return "nats://" + address
}

// Endpoint returns the broker of s, embedded or not.
func Endpoint(s config.Settings) config.Endpoint {
	e := s.Broker()
	e.Embedded = URL(s)
	return e
}

// CLI returns the nats command with the flags that reach a broker. A password in its URL
// is left out.
func CLI(e config.Endpoint) string {
	command := fmt.Sprintf("nats --server '%s'", publish.Addresses(e.Address()))
	for _, f := range [][2]string{{"creds", e.Creds}, {"nkey", e.NKey}, {"tlsca", e.CA}, {"tlscert", e.Cert}, {"tlskey", e.Key}} {
		if f[1] != "" {
			command += fmt.Sprintf(" --%s '%s'", f[0], f[1])
		}
	}
	return command
}

// Timeout bounds one request to the broker, and an attempt to connect to one server.
const Timeout = 10 * time.Second

// AnySubject selects all messages of a stream. A mistyped INGRESS_SUBJECT, or one
// that was changed, must not make it look empty.
const AnySubject = ">"
