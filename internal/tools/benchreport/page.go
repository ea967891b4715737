package main

import (
	"fmt"
	"strings"
)

const pageHead = `# Performance

Written by ` + "`make bench`, `make bench-durable`, `make bench-scale` and `make bench-security`" + `:
each replaces its own parts and leaves the others as they are. Do not edit.

Compare figures of one part, which come from one run, and not with those of other
parts, machines or days: CPU per message differs by up to 20 % between rounds on a
shared machine, rates by up to 40 %.
`

// The comments that enclose a part of the page.
func partBegin(name string) string { return "<!-- begin " + name + " -->\n" }
func partEnd(name string) string   { return "<!-- end " + name + " -->\n" }

// splitPage finds the parts that a page has, by group.
func splitPage(page string) (map[string]string, error) {
	parts := make(map[string]string)
	for _, name := range groupNames() {
		_, rest, found := strings.Cut(page, partBegin(name))
		if !found {
			continue
		}
		part, _, found := strings.Cut(rest, partEnd(name))
		if !found {
			return nil, fmt.Errorf("the part %s has no end: expected a line %q", name, strings.TrimSpace(partEnd(name)))
		}
		parts[name] = part
	}
	return parts, nil
}

// joinPage is the whole page. Parts stand in the order of the groups.
func joinPage(parts map[string]string) string {
	var page strings.Builder
	page.WriteString(pageHead)
	for _, g := range groups() {
		part, ok := parts[g.name]
		if !ok {
			fmt.Fprintf(&page, "\nNot measured yet: %s (`make %s`).\n", g.about, g.target)
			continue
		}
		fmt.Fprintf(&page, "\n%s%s%s", partBegin(g.name), part, partEnd(g.name))
	}
	return page.String()
}
