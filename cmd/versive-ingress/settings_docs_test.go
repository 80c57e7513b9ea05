package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// README.md has the table of settings as the program knows it; -update
// rewrites it.
func TestSettingsInREADME(t *testing.T) {
	const begin, end = "<!-- settings:begin -->\n", "<!-- settings:end -->"
	file := filepath.Join("..", "..", "README.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	got, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("README.md lacks the lines %s and %s", strings.TrimSpace(begin), end)
	}
	// A blank line at either side does not change what is shown.
	if diff := cmp.Diff(settingsMarkdown(), strings.Trim(got, "\n")+"\n"); diff != "" {
		if !*update {
			t.Fatalf("the table of settings is not up to date; run: go test ./cmd/versive-ingress -run README -update\n%s", diff)
		}
		if err := os.WriteFile(file, []byte(before+begin+"\n"+settingsMarkdown()+"\n"+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
