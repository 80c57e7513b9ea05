package main

import (
	"github.com/spf13/cobra"

	"versive-ingress/cmd/versive-ingress/internal/replay"
)

// aboutTimes explains the values of --since and --until.
const aboutTimes = `Times are those at which the ingress stored an event: RFC 3339 with its zone
(2024-01-31T08:00:00Z, 2024-01-31T09:00:00+01:00), or a duration such as 90m or
48h for that long ago.`

// addFilter adds the flags that choose events by what they are.
func addFilter(cmd *cobra.Command, f *replay.Selection) {
	flags := cmd.Flags()
	flags.StringVar(&f.Study, "study", "", "only events of the study with this id")
	flags.StringVar(&f.Interview, "interview", "", "only events of the interview with this id")
	flags.StringVar(&f.Type, "type", "", "only events of this type, such as interview.completed")
}

// addBounds adds the flags that choose events by their place in the stream.
func addBounds(cmd *cobra.Command, f *replay.Selection) {
	flags := cmd.Flags()
	flags.StringVar(&f.Since, "since", "", "from this time on")
	flags.StringVar(&f.Until, "until", "", "before this time")
	flags.Uint64Var(&f.First, "first", 0, "from this sequence on")
	flags.Uint64Var(&f.Last, "last", 0, "to this sequence, included")
}
