package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"versive-ingress/cmd/versive-ingress/internal/replay"
	"versive-ingress/schema"
)

const (
	// aboutTimes explains the values of --since and --until.
	aboutTimes = `Times are those at which the ingress stored an event: RFC 3339 with a zone, such
as 2024-01-31T08:00:00Z, or how long ago, such as 90m or 48h.`
	// aboutSettings explains how a command finds the broker.
	aboutSettings = `The settings of serve determine the broker; see versive-ingress serve --help.`
)

// addFilter adds the flags that choose events by study, interview, type and organization.
func addFilter(cmd *cobra.Command, f *replay.Selection) {
	flags := cmd.Flags()
	flags.StringVar(&f.Study, "study", "", "only events of the study with this id")
	flags.StringVar(&f.Interview, "interview", "", "only events of the interview with this id")
	flags.StringVar(&f.Type, "type", "", "only events of this type, such as interview.completed")
	addOrganization(cmd, &f.Organization)
}

// addOrganization adds the flag that chooses events by organization.
func addOrganization(cmd *cobra.Command, organization *string) {
	cmd.Flags().StringVar(organization, "organization", "", "only events of this organization, and erasures of which it is not known")
}

// addBounds adds the flags that choose a range of the stream.
func addBounds(cmd *cobra.Command, f *replay.Selection) {
	flags := cmd.Flags()
	flags.StringVar(&f.Since, "since", "", "begin with the events stored at this time or later")
	flags.StringVar(&f.Until, "until", "", "end with the events stored before this time")
	flags.Uint64Var(&f.First, "first", 0, "begin with this sequence")
	flags.Uint64Var(&f.Last, "last", 0, "end with this sequence")
	cmd.MarkFlagsMutuallyExclusive("first", "since")
	cmd.MarkFlagsMutuallyExclusive("last", "until")
}

// completeFiles has the shell complete flags by the names of files.
func completeFiles(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	}
}

// checkSet refuses a flag that is set to nothing, which may be a script's empty
// variable, or to 0, and the name of an organization that none can have. It removes the
// spaces around a name that was copied.
func checkSet(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains([]string{"study", "interview", "type", "organization", "consumer"}, f.Name) && f.Value.Type() == "string" {
			_ = f.Value.Set(strings.TrimSpace(f.Value.String()))
		}
		switch value := f.Value.String(); {
		case value == "":
			err = fmt.Errorf("--%s: want a value", f.Name)
		case value == "0" && f.Value.Type() != "string":
			err = fmt.Errorf("--%s 0: want more than 0", f.Name)
		case f.Name == "organization" && !schema.ValidOrganization(value):
			err = fmt.Errorf("--organization %q: want lower-case letters, digits and hyphens, as before the colon of a secret", value)
		}
	})
	return err
}
