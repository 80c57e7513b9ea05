package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"versive-ingress/cmd/versive-ingress/internal/config"
)

// TestDocuments compares the documents with the program: what they name exists, what
// exists is documented, and links lead somewhere.
func TestDocuments(t *testing.T) {
	t.Parallel()
	documents := readDocuments(t)
	t.Run("commands", func(t *testing.T) { checkCommands(t, documents) })
	t.Run("settings", func(t *testing.T) { checkSettings(t, documents) })
	t.Run("metrics", func(t *testing.T) { checkMetrics(t, documents) })
	t.Run("reasons", func(t *testing.T) { checkReasons(t, documents["docs/http.md"]) })
	t.Run("links", func(t *testing.T) { checkLinks(t, documents) })
	t.Run("decisions", func(t *testing.T) { checkDecisions(t, documents) })
}

// readDocuments returns the Markdown files at the top and in docs by path, without the
// changelog, which names what no longer exists.
func readDocuments(t *testing.T) map[string]string {
	t.Helper()
	top := os.DirFS(filepath.Join("..", ".."))
	documents := make(map[string]string)
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		files, err := fs.Glob(top, pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			if file != "CHANGELOG.md" {
				documents[file] = readText(t, filepath.Join("..", "..", file))
			}
		}
	}
	return documents
}

// each visits every match of a pattern in the documents.
func each(documents map[string]string, pattern *regexp.Regexp, visit func(document string, match []string)) {
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		for _, match := range pattern.FindAllStringSubmatch(documents[name], -1) {
			visit(name, match)
		}
	}
}

var (
	// commandLine is a call of the program in a code span or block.
	commandLine = regexp.MustCompile("(?m)(?:^|[\\s/`(])versive-ingress (\\S[^\\n`|;&>#)]*)")
	flagSpan    = regexp.MustCompile("`--([a-z-]+)")
)

func checkCommands(t *testing.T, documents map[string]string) {
	root := rootCommand()
	root.InitDefaultCompletionCmd()
	code := make(map[string]string) // the documents without their prose
	for name, text := range documents {
		code[name] = strings.Join(regexp.MustCompile("(?ms)^ *```.*?^ *```|`[^`]+`").FindAllString(text, -1), "\n")
	}
	each(code, commandLine, func(document string, match []string) {
		words := strings.Fields(match[1])
		if len(words) == 0 || !regexp.MustCompile(`^[a-z]+$`).MatchString(words[0]) {
			return // the name of a user, a unit, a file or an image
		}
		cmd, rest, err := root.Find(words)
		if err != nil || cmd == root || cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "--") {
			t.Errorf("%s: there is no command %q", document, match[0])
			return
		}
		for _, word := range rest {
			if name, isFlag := strings.CutPrefix(word, "--"); isFlag {
				if name, _, _ = strings.Cut(name, "="); name != "help" && cmd.Flags().Lookup(name) == nil {
					t.Errorf("%s: %s has no flag --%s", document, cmd.CommandPath(), name)
				}
			}
		}
	})

	commands, flags := documents["docs/commands.md"], map[string]bool{"help": true}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		name := strings.TrimPrefix(cmd.CommandPath(), "versive-ingress ")
		if !strings.Contains(commands, "versive-ingress "+name) && !strings.Contains(commands, "`"+name) {
			t.Errorf("docs/commands.md does not describe %s", name)
		}
		if cmd.Parent() == root && name != "completion" && !strings.Contains(documents["README.md"], "\n| `"+name+"` |") {
			t.Errorf("README.md does not list %s", name)
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			flags[f.Name] = true
			if !strings.Contains(commands, "--"+f.Name) && f.Name != "help" {
				t.Errorf("docs/commands.md does not name %s --%s", name, f.Name)
			}
		})
		if name != "completion" {
			for _, sub := range cmd.Commands() {
				walk(sub)
			}
		}
	}
	for _, cmd := range root.Commands() {
		walk(cmd)
	}
	each(map[string]string{"docs/commands.md": commands}, flagSpan, func(document string, match []string) {
		if !flags[match[1]] {
			t.Errorf("%s: no command has a flag --%s", document, match[1])
		}
	})
}

func checkSettings(t *testing.T, documents map[string]string) {
	exists := make(map[string]bool)
	for _, f := range config.Fields() { // docs/settings.md is generated from them
		exists[f.Name] = true
	}
	all := maps.Clone(documents)
	for _, pattern := range []string{"docker-compose.yml", "Dockerfile", "deploy/*/*", "deploy/kubernetes/*/*", "deploy/kubernetes/*/*/*"} {
		files, err := fs.Glob(os.DirFS(filepath.Join("..", "..")), pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if info, err := os.Stat(filepath.Join("..", "..", file)); err == nil && info.Mode().IsRegular() {
				all[file] = readText(t, filepath.Join("..", "..", file))
			}
		}
	}
	each(all, regexp.MustCompile(`\bINGRESS_[A-Z0-9_]+`), func(document string, match []string) {
		if !exists[match[0]] {
			t.Errorf("%s: %s is not a setting", document, match[0])
		}
	})
}

func checkMetrics(t *testing.T, documents map[string]string) {
	exists := exposedNames(t)
	families := make(map[string]bool)
	for name := range exists {
		if strings.HasPrefix(name, "versive_ingress_") {
			families[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] = true
		}
	}
	each(documents, regexp.MustCompile(`\bversive_ingress_[a-z0-9_]+`), func(document string, match []string) {
		if !exists[match[0]] && !families[match[0]] {
			t.Errorf("%s: %s is not a metric", document, match[0])
		}
	})
	for name := range families {
		if !strings.Contains(documents["docs/operations.md"], "\n| `"+name+"` |") {
			t.Errorf("docs/operations.md does not list %s", name)
		}
	}
}

// checkReasons finds the outcomes and reasons in the source that gives them.
func checkReasons(t *testing.T, document string) {
	sources := make(map[string]string)
	for _, pattern := range []string{"../../ingest/*.go", "../../publish/errors.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				sources[file] = readText(t, file)
			}
		}
	}
	found := 0
	each(sources, regexp.MustCompile(`\breject\(\w+, "(\w+)"|&outcome\{"(\w+)"|\breason :?= "(\w+)"`), func(source string, match []string) {
		found++
		if name := match[1] + match[2] + match[3]; !strings.Contains(document, "`"+name+"`") {
			t.Errorf("docs/http.md does not describe %s, of %s", name, source)
		}
	})
	if found < 25 {
		t.Errorf("found only %d outcomes and reasons", found)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	fenced  = regexp.MustCompile("(?ms)^ *```.*?^ *```")
)

func checkLinks(t *testing.T, documents map[string]string) {
	anchors := make(map[string]bool)
	for name, text := range documents {
		for _, match := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			anchors[name+"#"+anchor(match[1])] = true
		}
	}
	each(documents, link, func(document string, match []string) {
		if strings.Contains(match[1], "://") {
			return
		}
		file, fragment, _ := strings.Cut(match[1], "#")
		if file == "" {
			file = path.Base(document)
		}
		file = path.Join(path.Dir(document), file)
		if _, err := os.Stat(filepath.Join("..", "..", file)); err != nil {
			t.Errorf("%s: %s does not exist", document, match[1])
		} else if fragment != "" && !anchors[file+"#"+fragment] {
			t.Errorf("%s: %s has no heading #%s", document, file, fragment)
		}
	})
}

// anchor returns the fragment by which GitHub links to a heading.
func anchor(heading string) string {
	heading = link.ReplaceAllString(heading, "]")
	return strings.ReplaceAll(regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

func checkDecisions(t *testing.T, documents map[string]string) {
	header := regexp.MustCompile(`^# (\d+)\. (.+)\n\n- Status: (accepted|superseded by .+)\n- Date: (\d{4}-\d\d-\d\d)\n\n## Context\n`)
	const index = "docs/adr/README.md"
	var rows []string
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		if !strings.HasPrefix(name, "docs/adr/") || name == index {
			continue
		}
		match := header.FindStringSubmatch(documents[name])
		if match == nil {
			t.Errorf("%s does not begin with a title, a status, a date and the context", name)
			continue
		}
		if number := fmt.Sprintf("%04s", match[1]); !strings.HasPrefix(path.Base(name), number+"-") {
			t.Errorf("%s has the number %s", name, match[1])
		}
		rows = append(rows, fmt.Sprintf("| [%s](%s) | %s | %s |", match[1], path.Base(name), match[2], match[4]))
	}
	listed := regexp.MustCompile(`(?m)^\| \[.*$`).FindAllString(documents[index], -1)
	if diff := cmp.Diff(rows, listed); diff != "" {
		t.Errorf("%s (-decisions +listed)\n%s", index, diff)
	}
}
