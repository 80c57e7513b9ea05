package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// exitStatus is the list with which a command's help ends.
var exitStatus = regexp.MustCompile(`\nEXIT STATUS(\n  \d  \S.*(\n     \S.*)*)+$`)

// Every command that does something lists its exit statuses and, except for version, has
// an example, and every flag has a description.
func TestHelp(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Runnable() && !cmd.HasSubCommands() && !exitStatus.MatchString(cmd.Long) {
			t.Errorf("the help of %q does not end with a list EXIT STATUS", cmd.CommandPath())
		}
		if cmd.Runnable() && !cmd.HasSubCommands() && cmd.Name() != "version" && cmd.Example == "" {
			t.Errorf("the help of %q has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Long) {
			// The settings, whose lines are not wrapped.
			if n := len([]rune(strings.TrimSpace(line))); n > 80 && cmd.Name() != "serve" {
				t.Errorf("the help of %q has a line of %d characters: %s", cmd.CommandPath(), n, line)
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no description", cmd.CommandPath(), f.Name)
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
}
