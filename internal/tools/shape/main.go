// Command shape prints the sizes of files, functions and packages, and how much
// is documented, beside what we grow towards. It is never a failing check: a
// number is a reason to look, not a verdict. Run it from the root of the
// repository; `make shape` does.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
)

func main() {
	s, err := measure(os.DirFS("."))
	if err == nil {
		err = s.print(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shape:", err)
		os.Exit(1)
	}
}

// A sized thing is a file, a function or a package with its lines.
type sized struct {
	name  string
	lines int
}

// A shape is what was measured.
type shape struct {
	files, functions     []sized
	packages             map[string]int // production lines
	tests                map[string]int // test lines
	exported, documented int
}

// ignored directories hold nothing that we wrote.
var ignored = []string{".git", "node_modules", "testdata", "bench-results", "bin"}

func measure(root fs.FS) (*shape, error) {
	s := &shape{packages: make(map[string]int), tests: make(map[string]int)}
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(ignored, d.Name()) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		return s.add(p, text)
	})
	return s, err
}

func (s *shape) add(p string, text []byte) error {
	lines := bytes.Count(text, []byte("\n"))
	if strings.HasSuffix(p, "_test.go") {
		s.tests[path.Dir(p)] += lines
		return nil
	}
	s.files = append(s.files, sized{p, lines})
	s.packages[path.Dir(p)] += lines
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		s.declaration(fset, p, decl)
	}
	return nil
}

func (s *shape) declaration(fset *token.FileSet, p string, decl ast.Decl) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		lines := fset.Position(d.End()).Line - fset.Position(d.Pos()).Line + 1
		s.functions = append(s.functions, sized{p + " " + d.Name.Name, lines})
		s.name(d.Name, d.Doc)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			s.spec(d, spec)
		}
	}
}

// spec counts the names of a type, constant or variable. A comment above a
// group documents all of it.
func (s *shape) spec(d *ast.GenDecl, spec ast.Spec) {
	switch sp := spec.(type) {
	case *ast.TypeSpec:
		s.name(sp.Name, either(sp.Doc, d.Doc))
	case *ast.ValueSpec:
		for _, n := range sp.Names {
			s.name(n, either(either(sp.Doc, sp.Comment), d.Doc))
		}
	}
}

func either(a, b *ast.CommentGroup) *ast.CommentGroup {
	if a != nil {
		return a
	}
	return b
}

func (s *shape) name(n *ast.Ident, doc *ast.CommentGroup) {
	if !n.IsExported() {
		return
	}
	s.exported++
	if doc != nil {
		s.documented++
	}
}

// percentile of the sizes, which are sorted here.
func percentile(all []sized, p int) int {
	if len(all) == 0 {
		return 0
	}
	slices.SortFunc(all, func(a, b sized) int { return a.lines - b.lines })
	return all[(len(all)-1)*p/100].lines
}

// largestShown is how many of the largest files and functions are listed.
const largestShown = 5

func (s *shape) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tnow\tgrow towards")
	fmt.Fprintf(w, "file, median lines\t%d\t~120\n", percentile(s.files, 50))
	fmt.Fprintf(w, "file, p90\t%d\t~450\n", percentile(s.files, 90))
	fmt.Fprintf(w, "function, p90 lines\t%d\t~40\n", percentile(s.functions, 90))
	fmt.Fprintf(w, "exported names documented\t%d %%\t≥ 85 %%\n", 100*s.documented/max(1, s.exported))
	fmt.Fprintln(w, "\npackage\tlines (≤ ~4,000)\ttest lines")
	for _, dir := range slices.Sorted(maps.Keys(s.packages)) {
		fmt.Fprintf(w, "%s\t%d\t%d\n", dir, s.packages[dir], s.tests[dir])
	}
	fmt.Fprintln(w, "\nlargest files and functions\tlines\t")
	for _, all := range [][]sized{s.files, s.functions} {
		percentile(all, 100)
		for _, big := range slices.Backward(all[max(0, len(all)-largestShown):]) {
			fmt.Fprintf(w, "%s\t%d\t\n", big.name, big.lines)
		}
	}
	return w.Flush()
}
