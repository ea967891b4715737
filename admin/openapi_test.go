package admin

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/openapi.json")

const documentFile = "../docs/openapi.json"

// TestOpenAPI holds the document that is checked in against the code.
func TestOpenAPI(t *testing.T) {
	s, err := prepare(Options{Broker: new(stub)})
	if err != nil {
		t.Fatal(err)
	}
	now := append(bytes.Clone(s.document), '\n')
	if *update {
		if err := os.WriteFile(documentFile, now, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	was, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(was, now) {
		t.Errorf("%s differs from the code: run go test ./admin -run OpenAPI -update", documentFile)
	}
}

// TestOpenAPIDescribes holds the document against the table of routes, and its
// references against what there is.
func TestOpenAPIDescribes(t *testing.T) {
	_, c := open(t, Options{Broker: new(stub)})
	text, err := c.OpenAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Responses   map[string]struct{ Content map[string]any }
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %q, want 3.1", doc.OpenAPI)
	}
	ids := make(map[string]bool)
	n := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			n++
			pattern := strings.ToUpper(method) + " " + path
			if r, ok := rights[pattern]; !ok || r.action != op.OperationID || ids[op.OperationID] || op.Summary == "" {
				t.Errorf("%s: operation %q, summary %q: want one of its own, as in the table: %v", pattern, op.OperationID, op.Summary, r)
			}
			ids[op.OperationID] = true
			if op.Responses["default"].Content[problemType] == nil {
				t.Errorf("%s: no problem among its responses", pattern)
			}
		}
	}
	if n != len(rights) {
		t.Errorf("%d operations, want %d", n, len(rights))
	}
	const ref = `"$ref": "#/components/schemas/`
	for rest := string(text); ; {
		i := strings.Index(rest, ref)
		if i < 0 {
			break
		}
		rest = rest[i+len(ref):]
		name, _, _ := strings.Cut(rest, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("a reference to %s, which is not there", name)
		}
	}
	for name := range doc.Components.Schemas {
		if strings.Contains(name, "Error") {
			t.Errorf("schema %s: errors are Problems", name)
		}
	}
}
