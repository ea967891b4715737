package lint

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// A callRule forbids some functions of a package in some files.
type callRule struct {
	pkg     string   // import path
	names   []string // functions; none: all of them
	in      func(*source) bool
	because string
	instead string
}

var callRules = []callRule{
	{
		"time", []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}, pure,
		"lines that decide have no clock", "take now time.Time as an argument",
	},
	{
		"time", []string{"Sleep"}, outsideSynctest,
		"a sleep in a test is luck", "wait for the event, inject the clock, or use testing/synctest",
	},
	{
		"fmt", []string{"Print", "Printf", "Println"}, library,
		"standard output belongs to the commands", "return a value, or take an io.Writer",
	},
	{
		"log", nil, production,
		"one log line is written where an error stops travelling, with its fields", "use the log/slog.Logger that was handed over",
	},
	{
		"os", []string{"Exit"}, library,
		"exiting skips what others deferred", "return an error to the command",
	},
	{
		"net/http", []string{"Get", "Post", "Head", "PostForm", "ListenAndServe", "ListenAndServeTLS"}, production,
		"the default client and server wait for ever", "make an http.Client or http.Server with time limits",
	},
}

func pure(s *source) bool       { return production(s) && lineOf(s.dir) >= 0 && lineOf(s.dir) < pureLines }
func production(s *source) bool { return !s.test() }

func outsideSynctest(s *source) bool {
	_, bubble := s.imports()["testing/synctest"]
	return s.test() && !bubble
}

// library is all that is not a command.
func library(s *source) bool {
	for _, root := range []string{"cmd/", "cli/", "internal/tools/"} {
		if strings.HasPrefix(s.dir+"/", root) {
			return false
		}
	}
	return production(s)
}

// checkCalls finds forbidden calls and references.
func checkCalls(t *tree) []string {
	var findings []string
	for _, s := range t.sources {
		for _, rule := range callRules {
			if rule.in(s) {
				findings = append(findings, rule.find(t, s)...)
			}
		}
	}
	return findings
}

func (r callRule) find(t *tree, s *source) []string {
	name := localName(s, r.pkg)
	if name == "" {
		return nil
	}
	var findings []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if ok && x.Name == name && (r.names == nil || slices.Contains(r.names, sel.Sel.Name)) {
			findings = append(findings, t.at(sel.Pos(), "%s.%s: %s: %s", r.pkg, sel.Sel.Name, r.because, r.instead))
		}
		return true
	})
	return findings
}

// localName is what a file calls an imported package, or "" if it does not
// import it.
func localName(s *source, pkg string) string {
	for _, spec := range s.file.Imports {
		if spec.Path.Value != `"`+pkg+`"` {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return pkg[strings.LastIndex(pkg, "/")+1:]
	}
	return ""
}

// checkPanics demands that a panic says in a sentence of its own which
// invariant of ours was broken. panic(err) usually is an error nobody handled.
func checkPanics(t *tree) []string {
	var findings []string
	for _, s := range t.sources {
		if s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "panic" && !sentence(call.Args[0]) {
				findings = append(findings, t.at(call.Pos(), `panic without a sentence: a panic means our own bug: write panic("%s: what cannot be"), or return the error`, s.file.Name.Name))
			}
			return true
		})
	}
	return findings
}

// sentence reports whether e begins with a string literal, alone, joined with
// more, or as the format of a call.
func sentence(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Kind == token.STRING
	case *ast.BinaryExpr:
		return sentence(e.X)
	case *ast.CallExpr:
		return len(e.Args) > 0 && sentence(e.Args[0])
	}
	return false
}

func TestForbiddenCalls(t *testing.T) { report(t, checkCalls(repository(t))) }
func TestPanics(t *testing.T)         { report(t, checkPanics(repository(t))) }
