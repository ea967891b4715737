package journal

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// TestDocumentedExample: the example of docs/design/journal.md is what is written.
func TestDocumentedExample(t *testing.T) {
	text, err := os.ReadFile("../docs/design/journal.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "## An example")
	_, example, _ = strings.Cut(example, "```\n")
	example, _, _ = strings.Cut(example, "```")
	var got strings.Builder
	for line := range strings.Lines(example) {
		bytes, _, _ := strings.Cut(line, " ")
		got.WriteString(bytes)
	}
	for _, s := range opSamples() {
		if s.name != "message" {
			continue
		}
		ops := []Op{s.value}
		if want := hex.EncodeToString(appendRecord(header(ops), ops)); got.String() != want {
			t.Errorf("docs/design/journal.md:\n got %s\nwant %s", got.String(), want)
		}
	}
}
