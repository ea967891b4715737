package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
)

// module is the path that our own imports begin with.
const module = "fairlead"

// A source is one Go file.
type source struct {
	path string // from the root of the repository, with slashes
	dir  string // the package's place: "mqtt/packet", "." at the root
	text []byte
	file *ast.File
}

func (s *source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// imports yields the import paths of the file with their positions.
func (s *source) imports() map[string]token.Pos {
	found := make(map[string]token.Pos)
	for _, spec := range s.file.Imports {
		// The parser accepts string literals only, so Unquote cannot fail.
		p, _ := strconv.Unquote(spec.Path.Value)
		found[p] = spec.Pos()
	}
	return found
}

// A tree is everything that the rules look at: the Go files parsed, and every
// text file as its bytes.
type tree struct {
	fset    *token.FileSet
	sources []*source
	texts   map[string][]byte // by path; the Go files are among them
}

// at formats a finding: file, line, sentence.
func (t *tree) at(p token.Pos, format string, args ...any) string {
	where := t.fset.Position(p)
	return fmt.Sprintf("%s:%d: %s", where.Filename, where.Line, fmt.Sprintf(format, args...))
}

// skipped names directories that hold nothing of ours: what git ignores, and
// git itself.
var skipped = map[string]bool{
	".git": true, "node_modules": true, "bin": true, "fairlead-data": true, "bench-results": true,
}

// textBytesMax bounds the files that are read: no text of ours is longer, and
// what is longer is data.
const textBytesMax = 4 << 20

// load reads and parses everything below root. A Go file that does not parse is
// an error: no rule can be checked on it.
func load(root fs.FS) (*tree, error) {
	t := &tree{fset: token.NewFileSet(), texts: make(map[string][]byte)}
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && skipped[d.Name()] {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return t.add(root, p)
	})
	return t, err
}

func (t *tree) add(root fs.FS, p string) error {
	info, err := fs.Stat(root, p)
	if err != nil {
		return err
	}
	if info.Size() > textBytesMax || strings.HasSuffix(p, ".test") {
		return nil
	}
	text, err := fs.ReadFile(root, p)
	if err != nil {
		return err
	}
	t.texts[p] = text
	if !strings.HasSuffix(p, ".go") || strings.Contains(p, "testdata/") {
		return nil
	}
	file, err := parser.ParseFile(t.fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	t.sources = append(t.sources, &source{path: p, dir: path.Dir(p), text: text, file: file})
	return nil
}

// packages groups the sources by directory.
func (t *tree) packages() map[string][]*source {
	found := make(map[string][]*source)
	for _, s := range t.sources {
		found[s.dir] = append(found[s.dir], s)
	}
	return found
}

// repository is the tree that this test stands in.
func repository(t *testing.T) *tree {
	t.Helper()
	found, err := load(os.DirFS("../.."))
	if err != nil {
		t.Fatalf("load the repository: %v", err)
	}
	return found
}

// report fails t with every finding.
func report(t *testing.T, findings []string) {
	t.Helper()
	for _, f := range findings {
		t.Error(f)
	}
}
