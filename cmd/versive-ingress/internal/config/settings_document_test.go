package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite docs/settings.md")

// docs/settings.md is made of the comments and tags of Settings, except for its
// introduction.
func TestSettingsDocument(t *testing.T) {
	const (
		file    = "../../../../docs/settings.md"
		command = "go test ./cmd/versive-ingress/internal/config -run TestSettingsDocument -update"
		marker  = "\n<!-- The rest is generated from cmd/versive-ingress/internal/config/settings.go by\n     " + command + " -->\n"
	)
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	introduction, _, found := strings.Cut(string(got), marker)
	if !found {
		t.Fatalf("docs/settings.md lacks the lines%s", marker)
	}
	want := introduction + marker + settingsText(t)
	diff := cmp.Diff(want, string(got))
	if diff == "" {
		return
	}
	if !*update {
		t.Fatalf("docs/settings.md is not up to date; run: %s\n%s", command, diff)
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// settingsText returns a section for each setting, below the headings of their groups.
func settingsText(t *testing.T) string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "settings.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var settings *ast.StructType // the only one in the file
	ast.Inspect(parsed, func(n ast.Node) bool {
		if s, ok := n.(*ast.StructType); ok {
			settings = s
		}
		return true
	})
	fields := Fields()
	var b strings.Builder
	comments := parsed.Comments
	for i, f := range settings.Fields.List {
		for ; comments[0] != f.Doc; comments = comments[1:] { // of no field, so of a group
			if comments[0].Pos() > settings.Pos() {
				b.WriteString("\n" + textOf(comments[0]))
			}
		}
		comments = comments[1:]
		fallback := fields[i].Default
		switch {
		case fallback == "":
			fallback = "none"
		case !strings.Contains(fallback, " "):
			fallback = "`" + fallback + "`"
		}
		fmt.Fprintf(&b, "\n### %s\n\nDefault: %s.\n\n%s", fields[i].Name, fallback, textOf(f.Doc))
	}
	return b.String()
}

// textOf returns a comment without its slashes. ast.CommentGroup.Text would drop lines
// that look like directives.
func textOf(g *ast.CommentGroup) string {
	var b strings.Builder
	for _, line := range g.List {
		b.WriteString(strings.TrimPrefix(strings.TrimPrefix(line.Text, "//"), " ") + "\n")
	}
	return b.String()
}
