package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set by the linker in a release.
var (
	version = "devel"
	commit  = ""
)

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "versive-ingress",
		Short: "Store each of Versive's webhooks as one durable event",
		Long: `versive-ingress receives the webhooks of Versive, verifies and normalizes them,
and stores each event exactly once in a NATS JetStream stream, from which any
number of services can read and replay it.

To see it work without any setup:  versive-ingress demo`,
		SilenceUsage:  true, // an error at run time is not a wrong flag
		SilenceErrors: true, // main prints it
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkSet(cmd); err != nil {
				return cmd.FlagErrorFunc()(cmd, err)
			}
			return nil
		},
	}
	// Files complete only the flags that name one.
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.AddCommand(
		serveCommand(),
		demoCommand(),
		sendCommand(),
		tailCommand(),
		replayCommand(),
		findCommand(),
		missingCommand(),
		quarantineCommand(),
		deadlettersCommand(),
		consumersCommand(),
		eraseCommand(),
		auditCommand(),
		brokerCommand(),
		doctorCommand(),
		healthCommand(),
		versionCommand(),
	)
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit and Go version",
		Long: `Print the version and the commit that the program was built from, and the
version of Go that it was built with.

EXIT STATUS
  0  always`,
		Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "versive-ingress %s (commit %s, %s)\n", version, revision(), runtime.Version())
		},
	}
}

// revision returns the commit that the program was built from, as far as the
// linker or the go command has recorded it.
func revision() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
