package schema_test

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"versive-ingress/schema"
)

var update = flag.Bool("update", false, "rewrite the .golden files")

// TestGolden normalizes testdata/golden/<rule>/<case>.json, whose bytes are the
// body, and compares the message or the error with <case>.golden. The folders
// are the rules of normalization.
func TestGolden(t *testing.T) {
	for _, path := range goldenInputs(t) {
		t.Run(caseName(path), func(t *testing.T) {
			message, err := schema.Normalize(svixID, readFile(t, path))
			got := render(t, message, err)
			golden := strings.TrimSuffix(path, ".json") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(readFile(t, golden)), got); diff != "" {
				t.Errorf("(-%s +got)\n%s", golden, diff)
			}
		})
	}
}

// TestGoldenHasNoStrays finds files that are misnamed, and so belong to no
// case.
func TestGoldenHasNoStrays(t *testing.T) {
	known := map[string]bool{}
	for _, path := range goldenInputs(t) {
		known[path] = true
		known[strings.TrimSuffix(path, ".json")+".golden"] = true
	}
	for _, path := range goldenFiles(t) {
		if !known[path] {
			t.Errorf("%s belongs to no case", path)
		}
	}
}

var (
	documentedRow  = regexp.MustCompile(`(?m)^\| \[(.+)\]\(\.\./schema/(\S+)\.json\) \| ([^|]+) \|`)
	documentedCode = regexp.MustCompile("`([^`]+)`")
)

// TestGoldenInDocs: each row of the tables in docs/consumers.md of what is accepted
// links to a golden input that has the text of its first column. The golden file
// has that of the second one, which is a part of the event or the reason for the
// quarantine.
func TestGoldenInDocs(t *testing.T) {
	_, section, _ := strings.Cut(string(readFile(t, "../docs/consumers.md")), "\n### Accepted and quarantined\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := documentedRow.FindAllStringSubmatch(section, -1)
	if headings := 2 * strings.Count(section, "\n| ---"); len(rows) == 0 || len(rows)+headings != strings.Count(section, "\n| ") {
		t.Errorf("%d rows have a link to a golden file, want all", len(rows))
	}
	for _, row := range rows {
		input, golden := string(readFile(t, row[2]+".json")), string(readFile(t, row[2]+".golden"))
		if code := documentedCode.FindStringSubmatch(row[1]); code != nil && !strings.Contains(input, code[1]) {
			t.Errorf("%s.json does not have %s", row[2], code[1])
		}
		code := documentedCode.FindStringSubmatch(row[3])
		if code == nil || !strings.Contains(golden, code[1]) || strings.HasPrefix(row[3], "quarantined") != strings.HasPrefix(golden, code[1]+"\n") {
			t.Errorf("%s.golden does not have: %s", row[2], row[3])
		}
	}
}

// TestGoldenIsCanonical checks each accepted case for what holds for all
// events.
func TestGoldenIsCanonical(t *testing.T) {
	validate := jsonSchema(t)
	for _, path := range accepted(t) {
		t.Run(caseName(path), func(t *testing.T) {
			first := normalize(t, readFile(t, path))
			if err := validate(first.Data); err != nil {
				t.Errorf("the JSON Schema refuses it: %v", err)
			}
			again := normalize(t, first.Data)
			if diff := cmp.Diff(string(first.Data), string(again.Data)); diff != "" {
				t.Errorf("not idempotent (-once +twice)\n%s", diff)
			}
			if diff := cmp.Diff(first.Header, again.Header); diff != "" {
				t.Errorf("headers not idempotent (-once +twice)\n%s", diff)
			}
			if once, twice := first.Subject("versive"), again.Subject("versive"); once != twice {
				t.Errorf("subject not idempotent: %s, then %s", once, twice)
			}
		})
	}
}

// TestNormalizeKeepsNothingOfTheBody overwrites the body after it was
// normalized, as a server that reuses its buffers does.
func TestNormalizeKeepsNothingOfTheBody(t *testing.T) {
	for _, path := range accepted(t) {
		input := readFile(t, path)
		message := normalize(t, input)
		before := render(t, message, nil)
		for i := range input {
			input[i] = 'x'
		}
		if diff := cmp.Diff(before, render(t, message, nil)); diff != "" {
			t.Errorf("%s (-before +after)\n%s", caseName(path), diff)
		}
	}
}

// render returns a message or an error in the form of a .golden file.
func render(t *testing.T, m schema.Message, err error) string {
	t.Helper()
	if err != nil {
		e := refusal(t, err)
		return fmt.Sprintf("%s\n%s\n", e.Reason, e.Description())
	}
	var b strings.Builder
	fmt.Fprintln(&b, m.Subject("versive"))
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		for _, value := range m.Header[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", m.Data)
	return b.String()
}

// accepted returns the golden inputs that become events.
func accepted(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, path := range goldenInputs(t) {
		if _, err := schema.Normalize(svixID, readFile(t, path)); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

func goldenInputs(tb testing.TB) []string {
	tb.Helper()
	paths, err := filepath.Glob("testdata/golden/*/*.json")
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no golden files: %v", err)
	}
	return paths
}

func goldenFiles(t *testing.T) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir("testdata/golden", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// caseName returns <rule>/<case>.
func caseName(path string) string {
	path = strings.TrimPrefix(filepath.ToSlash(path), "testdata/golden/")
	return strings.TrimSuffix(path, ".json")
}
