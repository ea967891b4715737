package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// printHelp writes the help of the command that path names.
func (c *Command) printHelp(w io.Writer, path string) error {
	var b strings.Builder
	if len(c.Commands) > 0 {
		c.helpCommands(&b, path)
	} else {
		c.helpFlags(&b, path)
	}
	c.helpExamples(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *Command) helpCommands(b *strings.Builder, path string) {
	fmt.Fprintf(b, "%s\n\nUsage: %s COMMAND [flags]\n", c.Summary, path)
	if c.About != "" {
		fmt.Fprintf(b, "\n%s\n", strings.TrimSpace(c.About))
	}
	width := 0
	for _, next := range c.Commands {
		width = max(width, len(next.Name))
	}
	group := "\x00"
	for _, next := range c.Commands {
		if next.Group != group {
			group = next.Group
			fmt.Fprintf(b, "\n%s:\n", orText(group, "Commands"))
		}
		fmt.Fprintf(b, "  %-*s  %s\n", width, next.Name, next.Summary)
	}
	fmt.Fprintf(b, "\n\"%s COMMAND --help\" tells more about a command.\n", path)
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (c *Command) helpFlags(b *strings.Builder, path string) {
	fmt.Fprintf(b, "%s: %s\n\nUsage: %s [flags]", path, c.Summary, path)
	if c.Usage != "" {
		fmt.Fprintf(b, " %s", c.Usage)
	}
	b.WriteByte('\n')
	if c.About != "" {
		fmt.Fprintf(b, "\n%s\n", strings.TrimSpace(c.About))
	}
	flags, _ := c.New()
	if flags != nil {
		flags.help(b)
	}
}

// helpColumn is where the flags' texts begin.
const helpColumn = 30

func (f *Flags) help(b *strings.Builder) {
	group := "\x00"
	for _, fl := range f.flags {
		if fl.group != group {
			group = fl.group
			fmt.Fprintf(b, "\n%s:\n", orText(group, "Flags"))
		}
		left := fl.left()
		if utf8.RuneCountInString(left) > helpColumn-2 {
			fmt.Fprintf(b, "%s\n%*s", left, helpColumn, "")
		} else {
			fmt.Fprintf(b, "%-*s", helpColumn, left)
		}
		fmt.Fprintf(b, "%s\n", strings.ReplaceAll(fl.help, "\n", "\n"+strings.Repeat(" ", helpColumn)))
	}
}

func (fl *flag) left() string {
	left := "  " + strings.Join(fl.names, ", ")
	if strings.HasPrefix(fl.names[0], "--") {
		left = "      " + strings.Join(fl.names, ", ")
	}
	if fl.value != "" {
		left += " " + fl.value
	}
	return left
}

func (c *Command) helpExamples(b *strings.Builder) {
	if len(c.Examples) == 0 {
		return
	}
	b.WriteString("\nExamples:\n")
	for _, e := range c.Examples {
		fmt.Fprintf(b, "  # %s\n  %s\n", e.What, e.Line)
	}
}
