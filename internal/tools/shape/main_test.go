package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestShape(t *testing.T) {
	root := fstest.MapFS{
		"a/a.go": {Data: []byte(`// Package a is for measuring.
package a

// F is documented.
func F() {
	g()
}

func g() {}

type T struct{}

// The values.
const (
	One = iota
	Two
)
`)},
		"a/a_test.go":         {Data: []byte("package a\n\nvar x int\n")},
		"node_modules/b/b.go": {Data: []byte("not Go at all")},
	}
	s, err := measure(root)
	if err != nil {
		t.Fatal(err)
	}
	if s.packages["a"] != 17 || s.tests["a"] != 3 || len(s.packages) != 1 {
		t.Errorf("lines %v and %v of tests, want 17 and 3 in package a alone", s.packages, s.tests)
	}
	if s.exported != 4 || s.documented != 3 {
		t.Errorf("%d of %d exported names documented, want 3 of 4", s.documented, s.exported)
	}
	if got := percentile(s.functions, 100); got != 3 {
		t.Errorf("the longest function has %d lines, want 3", got)
	}
	var page strings.Builder
	if err := s.print(&page); err != nil || !strings.Contains(page.String(), "a/a.go F") {
		t.Errorf("print: %v:\n%s", err, &page)
	}
}
