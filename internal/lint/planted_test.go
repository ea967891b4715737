package lint

import (
	"strings"
	"testing"
	"testing/fstest"
)

// planted loads a tree of files made up on the spot.
func planted(t *testing.T, files map[string]string) *tree {
	t.Helper()
	root := make(fstest.MapFS)
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	found, err := load(root)
	if err != nil {
		t.Fatalf("load the planted files: %v", err)
	}
	return found
}

// TestPlanted shows that each rule goes red, and says what it should: a guard
// that was never seen to bark guards nothing.
func TestPlanted(t *testing.T) {
	ids := standards(t)
	citations := func(t *tree) []string { return checkCitations(t, ids) }
	tests := []struct {
		name  string
		check func(*tree) []string
		files map[string]string
		want  string // part of the only finding; "": none
	}{
		{"a rule imports a facility", checkLayers, map[string]string{"policy/a.go": "package policy\nimport _ \"fairlead/store\"\n"}, "policy imports fairlead/store: line 2 may not import line 3"},
		{"a sibling", checkLayers, map[string]string{"broker/a.go": "package broker\nimport _ \"fairlead/client\"\n"}, "neither is the other's parent"},
		{"a child of the parent's line", checkLayers, map[string]string{"store/mem/a.go": "package mem\nimport _ \"fairlead/store\"\n"}, ""},
		{"a root", checkLayers, map[string]string{"node/a.go": "package node\nimport _ \"fairlead/conformance\"\n"}, "a root is imported by nobody"},
		{"a rule with a socket", checkLayers, map[string]string{"mqtt/session/a.go": "package session\nimport _ \"net\"\n"}, "mqtt/session imports net: it decides and does not act"},
		{"a subpackage of a banned one", checkLayers, map[string]string{"mqtt/session/a.go": "package session\nimport _ \"sync/atomic\"\n"}, "the caller owns the state"},
		{"a word with a module", checkLayers, map[string]string{"mqtt/a.go": "package mqtt\nimport _ \"example.com/x\"\n"}, "standard library only"},
		{"a package nobody placed", checkLayers, map[string]string{"util/a.go": "package util\n"}, "has no place in the table"},
		{"a test imports what it likes", checkLayers, map[string]string{"mqtt/a_test.go": "package mqtt\nimport _ \"net\"\n"}, ""},
		{"an exception nothing uses", checkLayers, map[string]string{"mqtt/packet/a.go": "package packet\n"}, "its exception can go"},

		{"no package comment", checkComments, map[string]string{"mqtt/a.go": "package mqtt\n"}, "no package comment"},
		{"a comment in another form", checkComments, map[string]string{"mqtt/a.go": "// Words.\npackage mqtt\n"}, "no package comment"},
		{"a command's comment", checkComments, map[string]string{"cmd/fairlead/a.go": "// Command fairlead is it.\npackage main\n"}, ""},

		{"a module nobody listed", checkDependencies, map[string]string{
			"go.mod": "module fairlead\nrequire example.com/x v1.0.0\n", "listen/a.go": "package listen\nimport _ \"example.com/x/y\"\n",
		}, "production import of example.com/x by listen is not in docs/deps.txt"},
		{"a line nothing does", checkDependencies, map[string]string{
			"go.mod": "module fairlead\n", "docs/deps.txt": "example.com/x · listen · why\n",
		}, "stands in docs/deps.txt, and nothing does it"},
		{"a test import on the wrong side", checkDependencies, map[string]string{
			"go.mod": "require (\n\texample.com/x v1\n)\n", "docs/deps.txt": "## test only\nexample.com/x · listen · why\n",
			"listen/a_test.go": "package listen\nimport _ \"example.com/x\"\n",
		}, ""},
		{"a line without its reason", checkDependencies, map[string]string{"docs/deps.txt": "example.com/x · listen\n"}, "expected module · importing package · why"},

		{"a clock in a rule", checkCalls, map[string]string{"policy/a.go": "package policy\nimport \"time\"\nvar x = time.Now()\n"}, "policy/a.go:3: time.Now: lines that decide have no clock"},
		{"a clock under another name", checkCalls, map[string]string{"policy/a.go": "package policy\nimport clock \"time\"\nvar x = clock.Now\n"}, "no clock"},
		{"a clock where it belongs", checkCalls, map[string]string{"broker/a.go": "package broker\nimport \"time\"\nvar x = time.Now()\n"}, ""},
		{"a sleep in a test", checkCalls, map[string]string{"broker/a_test.go": "package broker\nimport \"time\"\nfunc f() { time.Sleep(1) }\n"}, "is luck"},
		{"a sleep in a bubble", checkCalls, map[string]string{"broker/a_test.go": "package broker\nimport (\n\"time\"\n_ \"testing/synctest\"\n)\nfunc f() { time.Sleep(1) }\n"}, ""},
		{"a print", checkCalls, map[string]string{"broker/a.go": "package broker\nimport \"fmt\"\nfunc f() { fmt.Println() }\n"}, "belongs to the commands"},
		{"a print of a command", checkCalls, map[string]string{"cli/pub/a.go": "package pub\nimport \"fmt\"\nfunc f() { fmt.Println() }\n"}, ""},
		{"the old logger", checkCalls, map[string]string{"broker/a.go": "package broker\nimport \"log\"\nfunc f() { log.Print() }\n"}, "log/slog"},

		{"a panic with an error", checkPanics, map[string]string{"broker/a.go": "package broker\nfunc f(err error) { panic(err) }\n"}, "panic without a sentence"},
		{"a panic with its sentence", checkPanics, map[string]string{"broker/a.go": "package broker\nfunc f(s string) { panic(\"broker: no \" + s) }\n"}, ""},

		{"a leftover", checkTexts, map[string]string{"README.md": "later (TO" + "DO)\n"}, "README.md:1"},
		{"a path of a machine", checkTexts, map[string]string{"Makefile": "\ncp /ro" + "ot/x .\n"}, "Makefile:2"},
		{"a path in a URL", checkTexts, map[string]string{"README.md": "see example.com/wo" + "rk/x\n"}, ""},
		{"a registry", checkTexts, map[string]string{"test/package-lock.json": "\"https://registry.npm" + "js.org/x\"\n"}, "host of a package registry"},

		{"a link to nowhere", checkLinks, map[string]string{"docs/a.md": "[b](b.md), [c](../c.md#part), [d](https://example.com), [e](sub/)\n", "c.md": "", "docs/sub/x.md": ""}, "docs/a.md: links to b.md"},

		{"a file gofmt would change", checkFormat, map[string]string{"mqtt/a.go": "package   mqtt\n"}, "mqtt/a.go: not in gofmt's form"},

		{"a statement that does not exist", citations, map[string]string{"mqtt/a.go": "package mqtt // [MQ" + "TT-2.2.1-1]\n"}, "MQTT-2.2.1-1 is no statement"},
		{"the other standard's statement", citations, map[string]string{"mqtt/a.go": "package mqtt // [v3 MQ" + "TT-4.13.2-1]\n"}, "v3 MQTT-4.13.2-1"},
		{"a list", citations, map[string]string{"mqtt/a.go": "package mqtt // [MQTT-4.6.0-5, -6], [v3 MQTT-3.1.2-3]\n"}, ""},
		{"a list with a wrong member", citations, map[string]string{"mqtt/a.go": "package mqtt // [MQ" + "TT-4.6.0-5, -99]\n"}, "MQTT-4.6.0-99"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.check(planted(t, tt.files))
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("findings %q, want none", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("findings %q, want one with %q", got, tt.want)
			}
		})
	}
}

// TestUnparsable shows that a broken source is an error and no silent gap.
func TestUnparsable(t *testing.T) {
	_, err := load(fstest.MapFS{"mqtt/a.go": {Data: []byte("package")}})
	if err == nil || !strings.Contains(err.Error(), "mqtt/a.go") {
		t.Errorf("load of a broken file: %v, want an error that names it", err)
	}
}
