// Command versive-ingress receives Versive's webhooks and stores each one
// durably, exactly once, in a NATS JetStream stream.
//
// It wires the packages together: ingest verifies what comes in, schema makes
// an event of it, publish stores it, and the embedded broker holds it where no
// other is configured. The documentation of package ingest states the promise.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/broker"
	"versive-ingress/cmd/versive-ingress/internal/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program immediately
	cmd, err := rootCommand().ExecuteContextC(ctx)
	stop()
	if err != nil {
		if cmd.Name() == "serve" { // nothing may read the error, and a supervisor restarts only what has ended
			time.AfterFunc(server.FlushTimeout, func() { os.Exit(exitCode(err)) })
		}
		fmt.Fprintf(os.Stderr, "versive-ingress: %s\n", explain(cmd, err))
		os.Exit(exitCode(err))
	}
}

// misuse matches the errors of cobra for arguments and flags, which have no type.
var misuse = regexp.MustCompile(`^(unknown |accepts |invalid argument |flag needs an argument|at least one of the flags |if any flags )`)

// explain returns the text of an error, and where to look for its remedy if it has none.
func explain(cmd *cobra.Command, err error) string {
	text := broker.ExplainDenial(err)
	switch {
	case misuse.MatchString(text):
		if !cmd.HasSubCommands() { // cobra takes an argument too many for one
			text = strings.Replace(text, "unknown command", "unknown argument", 1)
		}
		return text + "; see " + cmd.CommandPath() + " --help"
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return text + "; is INGRESS_STREAM right, and has an ingress created its streams at this broker?"
	case errors.Is(err, nats.ErrNoResponders):
		return text + "; the account of the user has no JetStream, or no import for this, as that of subscribers in deploy/nats/users.conf; use the key of the operator"
	}
	return text
}

// status2 is an error with the exit status 2: something could not be checked (doctor), or
// is not stored (find, missing).
type status2 struct{ error }

func exitCode(err error) int {
	if _, ok := errors.AsType[status2](err); ok {
		return 2
	}
	return 1
}
