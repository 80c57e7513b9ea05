package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/doc"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module      = "versive-ingress"
	natsClient  = "github.com/nats-io/nats.go"
	natsServer  = "github.com/nats-io/nats-server/v2"
	flagParser  = "github.com/spf13/cobra"
	metrics     = "github.com/prometheus/client_golang"
	traceSDK    = "go.opentelemetry.io/otel/sdk"
	fuse        = "github.com/hanwen/go-fuse/v2"
	fsnotify    = "github.com/fsnotify/fsnotify"
	rooms       = "cmd/versive-ingress/internal/" // what the commands are made of
	testSupport = "publish/embedded/embeddedtest"
)

// The house: which package may know which other of the project. A package
// that is not here has no place yet.
var mayImport = map[string][]string{
	"schema":            {},
	"ingest":            {"schema"},
	"publish":           {"schema"},
	"publish/access":    {},
	"publish/embedded":  {"publish/access"},
	"subscribe":         {"schema"},
	"cmd":               {"schema", "ingest", "publish", "publish/embedded", "subscribe"},
	rooms + "terminal":  {},
	rooms + "config":    {"ingest", "publish", "publish/access", "schema"},
	rooms + "broker":    {rooms + "config", "publish", "publish/embedded", "subscribe", "schema"},
	rooms + "forward":   {rooms + "config", rooms + "broker", "publish", "publish/embedded", "subscribe", "schema"},
	rooms + "page":      {rooms + "config", rooms + "broker", rooms + "consumers", rooms + "doctor", rooms + "find", rooms + "terminal", "publish", "subscribe", "schema"},
	rooms + "server":    {rooms + "config", rooms + "broker", rooms + "forward", rooms + "page", "ingest", "publish", "publish/embedded", "subscribe", "schema"},
	rooms + "sender":    {rooms + "config", "ingest"},
	rooms + "replay":    {rooms + "config", rooms + "broker", rooms + "sender", rooms + "terminal", "publish", "publish/access", "subscribe", "schema"},
	rooms + "erasure":   {rooms + "broker", rooms + "terminal", "publish", "publish/embedded", "subscribe", "schema"},
	rooms + "held":      {rooms + "broker", rooms + "erasure", rooms + "terminal", "publish", "subscribe", "schema"},
	rooms + "consumers": {rooms + "broker", rooms + "terminal", "publish", "schema", "subscribe"},
	rooms + "find":      {rooms + "terminal", "publish", "subscribe", "schema"},
	rooms + "audit":     {rooms + "config", rooms + "broker", rooms + "terminal", "publish", "publish/access", "schema", "subscribe"},
	rooms + "doctor":    {rooms + "config", rooms + "broker", rooms + "forward", rooms + "sender", rooms + "terminal", "ingest", "publish", "publish/access", "publish/embedded", "schema", "subscribe"},
	"docs":              {"schema", "subscribe"}, // what other teams' programs need

	testSupport:                {"schema", "publish", "publish/embedded"}, // nothing here may import it: it is for tests
	testSupport + "/faultdisk": {},
}

// Below the top level a package takes the rules of the nearest one above.
func rules(path string) (string, bool) {
	for name := strings.TrimPrefix(path, module+"/"); name != "."; name = filepath.Dir(name) {
		if _, ok := mayImport[name]; ok {
			return name, true
		}
	}
	return "", false
}

type goPackage struct {
	ImportPath, Dir           string
	Imports, Deps             []string
	TestGoFiles, XTestGoFiles []string
}

// listPackages returns the packages of the project, without their tests'
// imports.
func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,Deps,TestGoFiles,XTestGoFiles", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestHouse(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		t.Run(p.ImportPath, func(t *testing.T) {
			own, ok := rules(p.ImportPath)
			if !ok {
				t.Fatal("the house has no place for this package; see mayImport")
			}
			for _, imported := range p.Imports {
				if name, ours := strings.CutPrefix(imported, module+"/"); ours && !slices.Contains(mayImport[own], name) && !strings.HasPrefix(name, own+"/") {
					t.Errorf("imports %s, which it must not know", name)
				}
			}

			// NATS, flags, metrics and what exports traces stay where they belong, imported indirectly or not.
			inRoom := strings.HasPrefix(own, rooms)
			may := map[string]bool{
				natsClient: own == "publish" || own == "subscribe" || own == "cmd" || own == "docs" || own == testSupport || inRoom && own != rooms+"terminal",
				natsServer: own == "publish/embedded" || own == testSupport || own == "cmd" || inRoom && slices.Contains(mayImport[own], rooms+"broker") || own == rooms+"broker",
				traceSDK:   own == "cmd" || own == rooms+"server",
				flagParser: own == "cmd",
				metrics:    !slices.Contains([]string{"schema", "subscribe", "docs", "publish/embedded", rooms + "terminal"}, own),
				fuse:       own == testSupport+"/faultdisk",
				fsnotify:   false, // files are polled, because a system can run out of inotify instances
			}
			for _, dependency := range p.Deps {
				for m, allowed := range may {
					if !allowed && (dependency == m || strings.HasPrefix(dependency, m+"/")) {
						t.Errorf("a program with it compiles %s", dependency)
					}
				}
			}
			limit := 350
			if p.ImportPath == module+"/cmd/versive-ingress" {
				limit = 120 // commands are thin
			}
			for _, file := range sources(t, p.Dir) {
				if lines := strings.Count(readText(t, file), "\n"); lines > limit {
					t.Errorf("%s has %d lines, want at most %d", file, lines, limit)
				}
			}
			if own != "docs" {
				checkDoc(t, p, own)
			}
		})
	}
}

// checkDoc checks that the documentation of a package states its part of the promise,
// and has an example that runs.
func checkDoc(t *testing.T, p goPackage, own string) {
	t.Helper()
	var texts []string
	for _, file := range sources(t, p.Dir) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, parsed.Doc.Text())
	}
	comment := strings.Join(texts, "")
	if strings.HasPrefix(own, rooms) {
		if comment == "" {
			t.Error("the package has no comment")
		}
		return
	}
	if !strings.Contains(comment, "promise") {
		t.Error("the package's comment does not say what its part of the promise is")
	}
	if own == "cmd" {
		return // its examples are its scripts
	}
	runs := false
	for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, example := range doc.Examples(parsed) {
			runs = runs || example.Output != "" || example.EmptyOutput
		}
	}
	if !runs {
		t.Error("no example with output")
	}
}

// sources returns the files of a package, without its tests.
func sources(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, "_test.go") })
}

// A new folder at the top needs a reason that a newcomer would guess from its
// name.
func TestTopLevel(t *testing.T) {
	t.Parallel()
	top := filepath.Join("..", "..")
	ignored, err := os.ReadFile(filepath.Join(top, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	folders := []string{"cmd", "ingest", "publish", "schema", "subscribe", "deploy", "docs", ".ci"}
	entries, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() && name != ".git" && !slices.Contains(folders, name) && !strings.Contains(string(ignored), "/"+name+"/\n") {
			t.Errorf("folder %s is not one of the house: %v", name, folders)
		}
	}
}
