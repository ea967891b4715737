package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// importersMax is how many packages may import a third-party module: one owns
// it; a second needs its own line in docs/deps.txt with its own reason.
const importersMax = 2

// A dependency is one line of docs/deps.txt: module · importing package · why.
type dependency struct {
	module, importer string
	test             bool // below the heading for tests
}

func (d dependency) String() string {
	kind := "production"
	if d.test {
		kind = "test-only"
	}
	return fmt.Sprintf("%s import of %s by %s", kind, d.module, d.importer)
}

// checkDependencies compares what is imported with what docs/deps.txt says.
func checkDependencies(t *tree) []string {
	listed, findings := parseDependencies(string(t.texts["docs/deps.txt"]))
	found := importedModules(t, parseModules(string(t.texts["go.mod"])))
	for d := range found {
		if !listed[d] {
			findings = append(findings, d.String()+" is not in docs/deps.txt: add the line with its reason, or do without")
		}
	}
	importers := make(map[string]int)
	for d := range listed {
		if !found[d] {
			findings = append(findings, d.String()+" stands in docs/deps.txt, and nothing does it")
		}
		if !d.test {
			importers[d.module]++
		}
	}
	for m, n := range importers {
		if n > importersMax {
			findings = append(findings, fmt.Sprintf("%s has %d importing packages, at most %d: let one package own it", m, n, importersMax))
		}
	}
	return slices.Sorted(slices.Values(findings))
}

// parseDependencies reads docs/deps.txt. A line "## test only" opens the part
// for tests; other lines beginning with '#' are comments.
func parseDependencies(text string) (map[dependency]bool, []string) {
	listed := make(map[dependency]bool)
	var findings []string
	test := false
	for i, line := range strings.Split(text, "\n") {
		if line == "## test only" {
			test = true
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, " · ")
		if len(fields) != 3 {
			findings = append(findings, fmt.Sprintf("docs/deps.txt:%d: found %d fields, expected module · importing package · why", i+1, len(fields)))
			continue
		}
		listed[dependency{fields[0], fields[1], test}] = true
	}
	return listed, findings
}

// parseModules lists the modules that go.mod requires, longest path first, so
// that the first prefix of an import path is its module.
func parseModules(gomod string) []string {
	var found []string
	block := false
	for line := range strings.SplitSeq(gomod, "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case fields[0] == "require" && fields[1] == "(":
			block = true
		case fields[0] == ")":
			block = false
		case fields[0] == "require":
			found = append(found, fields[1])
		case block:
			found = append(found, fields[0])
		}
	}
	slices.SortFunc(found, func(a, b string) int { return len(b) - len(a) })
	return found
}

// importedModules finds who imports which module. A package that imports a
// module in its tests and in its code is listed once, as production.
func importedModules(t *tree, modules []string) map[dependency]bool {
	found := make(map[dependency]bool)
	for _, s := range t.sources {
		for imported := range maps.Keys(s.imports()) {
			if thirdParty(imported) {
				found[dependency{moduleOf(imported, modules), s.dir, s.test() || testOnly(s.dir)}] = true
			}
		}
	}
	maps.DeleteFunc(found, func(d dependency, _ bool) bool {
		return d.test && found[dependency{d.module, d.importer, false}]
	})
	return found
}

// testOnly reports whether a package exists for tests only.
func testOnly(dir string) bool { return dir == "test/e2e" || dir == "conformance" }

func moduleOf(imported string, modules []string) string {
	for _, m := range modules {
		if imported == m || strings.HasPrefix(imported, m+"/") {
			return m
		}
	}
	return imported + " (in no module of go.mod)"
}

func TestDependencies(t *testing.T) { report(t, checkDependencies(repository(t))) }
