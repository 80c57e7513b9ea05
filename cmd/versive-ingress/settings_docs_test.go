package main

import (
	"strings"
	"testing"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// serve --help has every setting with its default and what it means.
func TestSettingsInHelp(t *testing.T) {
	var help strings.Builder
	root := rootCommand()
	root.SetArgs([]string{"serve", "--help"})
	root.SetOut(&help)
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, f := range config.Fields() {
		want := "\n  " + f.Name
		if f.Default != "" {
			want += " (" + f.Default + ")"
		}
		if want += "\n      " + f.Description + "\n"; !strings.Contains(help.String(), want) {
			t.Errorf("the help lacks %q", want)
		}
	}
}
