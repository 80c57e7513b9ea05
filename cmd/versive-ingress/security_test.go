package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tests that docs/security.md names exist, and no line goes without one.
func TestThreatModel(t *testing.T) {
	t.Parallel()
	exists := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, p := range listPackages(t) {
		name := filepath.Base(p.ImportPath)
		if strings.HasPrefix(p.ImportPath, module+"/cmd/") {
			name = "cmd"
		}
		for _, file := range append(p.TestGoFiles, p.XTestGoFiles...) {
			for _, found := range declared.FindAllStringSubmatch(readText(t, filepath.Join(p.Dir, file)), -1) {
				exists[name+"."+found[1]] = true
			}
		}
	}
	named := regexp.MustCompile("`(\\w+\\.(?:Test|Fuzz)\\w+)`")
	lines := 0
	tested := false // the table at hand has a column for tests
	for line := range strings.Lines(readText(t, filepath.Join("..", "..", "docs", "security.md"))) {
		switch {
		case !strings.HasPrefix(line, "|"):
			tested = false
			continue
		case strings.HasSuffix(line, "| test |\n"):
			tested = true
			continue
		case !tested, strings.HasPrefix(line, "| ---"):
			continue
		}
		lines++
		tests := named.FindAllStringSubmatch(line, -1)
		if len(tests) == 0 {
			t.Errorf("no test holds: %s", line)
		}
		for _, test := range tests {
			if !exists[test[1]] {
				t.Errorf("%s does not exist: %s", test[1], line)
			}
		}
	}
	if lines < 30 {
		t.Errorf("docs/security.md has %d threats", lines)
	}
}
