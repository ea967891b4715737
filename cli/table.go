package cli

import (
	"encoding/json"
	"io"
	"strings"
	"text/tabwriter"
)

// PrintJSON writes v for scripts, indented.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // nobody puts it into a web page
	return e.Encode(v)
}

// Table is rows of cells for people, in columns as wide as need be.
type Table struct {
	rows [][]string
}

// Row adds a row. An empty cell is shown as "-".
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// Print writes the rows, each behind indent.
func (t *Table) Print(to io.Writer, indent string) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		line := indent
		for i, cell := range row {
			if cell == "" {
				cell = "-"
			}
			if i > 0 {
				line += "\t"
			}
			line += cell
		}
		_, _ = io.WriteString(w, line+"\n") // a strings.Builder takes everything
	}
	_ = w.Flush()
	_, err := io.WriteString(to, b.String())
	return err
}
