package lint

import (
	"bytes"
	"fmt"
	"go/format"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A textRule forbids a pattern in every text file of the repository. The
// patterns are put together here from parts, so that this file keeps them.
type textRule struct {
	pattern *regexp.Regexp
	because string
}

var textRules = []textRule{
	{
		regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`),
		"a leftover: do it, or open an issue and write nothing",
	},
	{
		regexp.MustCompile(`(^|[^\w.$}-])/(ro` + `ot|ho` + `me|wo` + `rk)/\w`),
		"a path of one machine: write it relative to the repository, or take it from a variable",
	},
	{
		regexp.MustCompile(`(?i)\b(registry\.npm` + `js|proxy\.gol` + `ang|deb\.deb` + `ian)\.`),
		"the host of a package registry: the tools know theirs; leave it to their settings",
	},
}

// ours are the endings of the texts that people write; everything else (lock
// files, binary test vectors) is data and only some rules look at it.
var ours = []string{".go", ".md", ".txt", ".yaml", ".yml", ".json", ".mjs", ".js", ".sh", ".tsv", "Makefile", "run", ".gitignore", ".npmrc"}

func checkTexts(t *tree) []string {
	var findings []string
	for _, name := range slices.Sorted(maps.Keys(t.texts)) {
		if !slices.ContainsFunc(ours, func(end string) bool { return strings.HasSuffix(name, end) }) || path.Base(name) == "LICENSE" {
			continue
		}
		findings = append(findings, checkText(name, t.texts[name])...)
	}
	return findings
}

func checkText(name string, text []byte) []string {
	var findings []string
	for _, rule := range textRules {
		for _, at := range rule.pattern.FindAllIndex(text, -1) {
			line := 1 + bytes.Count(text[:at[0]], []byte("\n"))
			findings = append(findings, fmt.Sprintf("%s:%d: %q: %s", name, line, strings.TrimSpace(string(text[at[0]:at[1]])), rule.because))
		}
	}
	return findings
}

// link is a Markdown link; the group is its target.
var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// checkLinks finds links between our own pages that lead nowhere.
func checkLinks(t *tree) []string {
	var findings []string
	for _, name := range slices.Sorted(maps.Keys(t.texts)) {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, m := range link.FindAllSubmatch(t.texts[name], -1) {
			target, _, _ := strings.Cut(string(m[1]), "#")
			if target == "" || strings.Contains(target, ":") {
				continue // within the page, or elsewhere on the net
			}
			if !t.has(path.Join(path.Dir(name), target)) {
				findings = append(findings, fmt.Sprintf("%s: links to %s, which does not exist", name, target))
			}
		}
	}
	return findings
}

// has reports whether the tree has a file or a directory of files at p.
func (t *tree) has(p string) bool {
	for name := range t.texts {
		if name == p || strings.HasPrefix(name, p+"/") {
			return true
		}
	}
	return false
}

// checkFormat holds each Go file against gofmt.
func checkFormat(t *tree) []string {
	var findings []string
	for _, s := range t.sources {
		formatted, err := format.Source(s.text)
		if err != nil || !bytes.Equal(formatted, s.text) {
			findings = append(findings, s.path+": not in gofmt's form: run gofmt -w on it")
		}
	}
	return findings
}

// A citation is one bracketed list of statements: [MQTT-3.3.2-7], with more
// numbers of the same section after commas, and "v3 " in front for 3.1.1.
var (
	citation = regexp.MustCompile(`\[(v3 )?(MQTT-[^\]\n]*)\]`)
	full     = regexp.MustCompile(`^MQTT-(\d+(?:\.\d+)*)-(\d+)$`)
	short    = regexp.MustCompile(`^-(\d+)$`)
)

// statements are the ids that exist, per standard.
type statements struct{ v5, v311 map[string]bool }

// checkCitations finds cited statements that no standard has.
func checkCitations(t *tree, known statements) []string {
	var findings []string
	for _, s := range t.sources {
		for _, m := range citation.FindAllSubmatchIndex(s.text, -1) {
			ids := known.v5
			if m[2] >= 0 {
				ids = known.v311
			}
			line := 1 + bytes.Count(s.text[:m[0]], []byte("\n"))
			for _, id := range unknown(string(s.text[m[4]:m[5]]), ids) {
				findings = append(findings, fmt.Sprintf("%s:%d: %s%s is no statement of the standard", s.path, line, s.text[max(m[2], 0):max(m[3], 0)], id))
			}
		}
	}
	return findings
}

// unknown returns the ids of a citation's list that are not in ids.
func unknown(list string, ids map[string]bool) []string {
	var missing []string
	section := ""
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimPrefix(strings.TrimSpace(item), "v3 ")
		id := item
		if m := full.FindStringSubmatch(item); m != nil {
			section = m[1]
		}
		if m := short.FindStringSubmatch(item); m != nil {
			id = "MQTT-" + section + "-" + m[1]
		}
		if !ids[id] {
			missing = append(missing, id)
		}
	}
	return missing
}

func standards(t *testing.T) statements {
	t.Helper()
	return statements{v5: readIDs(t, "testdata/mqtt5-ids.txt"), v311: readIDs(t, "testdata/mqtt311-ids.txt")}
}

func readIDs(t *testing.T, name string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for id := range strings.FieldsSeq(string(text)) {
		ids[id] = true
	}
	return ids
}

func TestTexts(t *testing.T)     { report(t, checkTexts(repository(t))) }
func TestLinks(t *testing.T)     { report(t, checkLinks(repository(t))) }
func TestFormat(t *testing.T)    { report(t, checkFormat(repository(t))) }
func TestCitations(t *testing.T) { report(t, checkCitations(repository(t), standards(t))) }
