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
	"strings"
	"syscall"
	"time"

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
		hint := ""
		if strings.HasPrefix(err.Error(), "unknown ") { // command or flag; the error of cobra has no type
			hint = "; see " + cmd.CommandPath() + " --help"
		}
		fmt.Fprintf(os.Stderr, "versive-ingress: %v%s\n", err, hint)
		os.Exit(exitCode(err))
	}
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
