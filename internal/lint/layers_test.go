package lint

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// layers is the architecture. A package imports packages of earlier lines and,
// of its own line, only its parent or its children. A name ending in "/*"
// stands for every package directly below it that has no line of its own. A
// line may name a package before the package exists.
var layers = [][]string{
	{"mqtt", "mqtt/packet", "mqtt/topic"},                 // words: the standard as Go types
	{"trace", "document"},                                 // what happens to a message, in those words; YAML and JSON with places
	{"mqtt/session", "policy", "journal"},                 // rules: they decide and never act
	{"store", "store/*", "listen", "ca", "acme", "audit"}, // facilities: each owns one kind of I/O
	{"auth"},                                 // who is behind a connection
	{"config"},                               // what they and the services can be told
	{"broker", "client", "device", "access"}, // services: siblings do not know each other
	{"admin"},                                // surfaces: for the person who looks after it
	{"node"},                                 // the one place where the parts meet
	{"cli"},                                  // what the commands share
	{"cli/*"},                                // commands
	{"cli/root"},                             // the list of the commands
	{"cmd/fairlead", "conformance", "internal/lint"}, // roots: import all, imported by none
	{"test/e2e", "test/crash", "internal/tools/*"},   // roots as well
}

const (
	pureLines = 3  // the first lines: no I/O, clock, lock, randomness; standard library only
	rootLine  = 12 // from here on nobody imports you
)

// impure says what the pure lines may not import, and what to do instead.
var impure = map[string]string{
	"net":          "it decides and does not act: the caller owns the connection",
	"os":           "it decides and does not act: take an io.Reader, or the bytes",
	"io/ioutil":    "it decides and does not act: take an io.Reader, or the bytes",
	"syscall":      "it decides and does not act",
	"sync":         "the caller owns the state and locks it",
	"log":          "return an error, or report through trace",
	"math/rand":    "take the random value as an argument",
	"math/rand/v2": "take the random value as an argument",
	"crypto/rand":  "take the random value as an argument",
	"context":      "nothing here waits, so nothing here can be cancelled",
	"runtime":      "nothing here depends on the scheduler",
}

// An exception is an import that a rule forbids and we allow, for a reason.
type exception struct{ dir, imports, reason string }

// exceptions is kept short. An entry that nothing uses any more is a finding.
var exceptions = []exception{
	{"document", "go.yaml.in/yaml/v3", "YAML with places; parsing decides and does no I/O"},
	{"mqtt/packet", "sync", "read buffers come from a sync.Pool: an idle connection holds none; no lock is shared"},
}

// lineOf is the index of the package's line, or -1.
func lineOf(dir string) int {
	for i, line := range layers {
		if slices.Contains(line, dir) {
			return i
		}
	}
	for i, line := range layers {
		if slices.Contains(line, path.Dir(dir)+"/*") {
			return i
		}
	}
	return -1
}

// related reports whether one package is the other's parent.
func related(a, b string) bool {
	return strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// checkLayers holds every import of the tree against the table. Tests are free
// in what they import: they show how parts meet.
func checkLayers(t *tree) []string {
	var findings []string
	used := make(map[exception]bool)
	for _, dir := range slices.Sorted(maps.Keys(t.packages())) {
		if lineOf(dir) < 0 {
			findings = append(findings, dir+": has no place in the table of internal/lint/layers_test.go: say where it belongs")
			continue
		}
		for _, s := range t.packages()[dir] {
			if !s.test() {
				findings = append(findings, checkImports(t, s, used)...)
			}
		}
	}
	for _, e := range exceptions {
		if len(t.packages()[e.dir]) > 0 && !used[e] {
			findings = append(findings, fmt.Sprintf("%s does not import %s: its exception can go", e.dir, e.imports))
		}
	}
	return findings
}

func checkImports(t *tree, s *source, used map[exception]bool) []string {
	var findings []string
	for imported, pos := range s.imports() {
		why := forbidden(s.dir, imported)
		if why == "" {
			continue
		}
		if e, ok := allowed(s.dir, imported); ok {
			used[e] = true
			continue
		}
		findings = append(findings, t.at(pos, "%s imports %s: %s", s.dir, imported, why))
	}
	return findings
}

// forbidden says why dir may not import the package, or "".
func forbidden(dir, imported string) string {
	if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
		return forbiddenOurs(dir, ours)
	}
	if lineOf(dir) >= pureLines {
		return ""
	}
	if thirdParty(imported) {
		return "lines that decide use the standard library only"
	}
	for banned, why := range impure {
		if imported == banned || strings.HasPrefix(imported, banned+"/") {
			return why
		}
	}
	return ""
}

func forbiddenOurs(dir, ours string) string {
	from, to := lineOf(dir), lineOf(ours)
	if to < 0 {
		return "it has no place in the table"
	}
	if to >= rootLine {
		return "a root is imported by nobody"
	}
	if to > from {
		return fmt.Sprintf("line %d may not import line %d", from, to)
	}
	if to == from && !related(dir, ours) {
		return fmt.Sprintf("both are on line %d and neither is the other's parent", from)
	}
	return ""
}

func allowed(dir, imported string) (exception, bool) {
	for _, e := range exceptions {
		if e.dir == dir && e.imports == imported {
			return e, true
		}
	}
	return exception{}, false
}

// thirdParty reports whether an import path belongs to another module: only
// those have a dot in their first element.
func thirdParty(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return strings.Contains(first, ".")
}

// checkComments demands a package comment in Go's form for each package.
func checkComments(t *tree) []string {
	var findings []string
	for _, dir := range slices.Sorted(maps.Keys(t.packages())) {
		if !hasComment(t.packages()[dir]) {
			findings = append(findings, dir+": no package comment: say what the package is for and where to begin")
		}
	}
	return findings
}

func hasComment(files []*source) bool {
	for _, s := range files {
		want := "Package " + s.file.Name.Name + " "
		if s.file.Name.Name == "main" {
			want = "Command " + path.Base(s.dir) + " "
		}
		if s.file.Doc != nil && strings.HasPrefix(s.file.Doc.Text(), want) {
			return true
		}
	}
	return false
}

func TestLayers(t *testing.T)          { report(t, checkLayers(repository(t))) }
func TestPackageComments(t *testing.T) { report(t, checkComments(repository(t))) }
