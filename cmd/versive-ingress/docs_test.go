package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	// copied is an example in a document: a marker that names its file, and the
	// block below it.
	copied = regexp.MustCompile("(?m)^<!-- (examples/\\S+) -->\n(?:\n```[a-z]+\n(?s:.*?)^```\n)?")
	// block is a block in a language.
	block = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```\n")
)

// TestExamplesInDocs: the examples in docs/consumers.md are the files in
// docs/examples, which are checked; -update copies them.
func TestExamplesInDocs(t *testing.T) {
	t.Parallel()
	docs := filepath.Join("..", "..", "docs")
	file := filepath.Join(docs, "consumers.md")
	document := readText(t, file)
	languages := map[string]string{".go": "go", ".py": "python", ".ts": "ts"}
	want := copied.ReplaceAllStringFunc(document, func(found string) string {
		name := copied.FindStringSubmatch(found)[1]
		return "<!-- " + name + " -->\n\n```" + languages[filepath.Ext(name)] + "\n" + readText(t, filepath.Join(docs, name)) + "```\n"
	})
	if diff := cmp.Diff(want, document); diff != "" {
		if !*update {
			t.Fatalf("the examples are not up to date; run: go test ./cmd/versive-ingress -run Docs -update\n%s", diff)
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	// No other block is in a language that only a file's check would check.
	for _, found := range block.FindAllStringSubmatch(copied.ReplaceAllString(want, ""), -1) {
		if language := found[1]; language != "sh" && language != "sql" { // see .ci/acceptance and .ci/docs
			t.Errorf("a block in %s is not copied from a file:\n%s", language, found[2])
		}
	}
	// The Go in README.md is an excerpt.
	example := strings.ReplaceAll("\n"+readText(t, filepath.Join(docs, "examples", "subscribe", "main.go")), "\n\t", "\n")
	for _, found := range block.FindAllStringSubmatch(readText(t, filepath.Join("..", "..", "README.md")), -1) {
		if found[1] == "go" && !strings.Contains(example, "\n"+found[2]) {
			t.Errorf("README.md has Go that is not in docs/examples/subscribe:\n%s", found[2])
		}
	}
}

// TestRelease: an unpacked release has the files that the commands of
// docs/operations.md name.
func TestRelease(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	patterns := regexp.MustCompile(`(?m)^    files: \[(.*)\]$`).FindStringSubmatch(readText(t, filepath.Join(root, ".goreleaser.yaml")))[1]
	packed := func(file string) bool {
		for pattern := range strings.SplitSeq(strings.ReplaceAll(patterns, `"`, ""), ", ") {
			dir, isTree := strings.CutSuffix(pattern, "**/*")
			if match, _ := filepath.Match(pattern, file); match || isTree && strings.HasPrefix(file, dir) {
				return true
			}
		}
		return false
	}
	named := 0
	for _, found := range block.FindAllStringSubmatch(readText(t, filepath.Join(root, "docs", "operations.md")), -1) {
		for _, file := range regexp.MustCompile(`[\w-][\w./-]*\.\w+`).FindAllString(found[2], -1) {
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				continue // not of the repository
			}
			if named++; !packed(file) {
				t.Errorf("a release lacks %s", file)
			}
		}
	}
	if named == 0 {
		t.Error("no command names a file")
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
