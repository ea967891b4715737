package policy

import (
	"context"
	"fmt"
	"io"
	"strings"

	"fairlead/admin"
	"fairlead/cli"
)

var diffCommand = &cli.Command{
	Name: "diff", Usage: "FILE", Summary: "say who would gain and lose what by a file of policies",
	About: `Looks at every device, user and connected client, with FILE in force instead of what the broker
keeps under that name. Nothing is changed. What is marked with ! is in use: a
subscription that it has, or a topic that it lately published to. "-" is standard input.`,
	Examples: []cli.Example{
		{What: "before it is applied", Line: "fairlead policy diff sensors.yaml"},
		{What: "who would lose something that is in use", Line: "fairlead policy diff sensors.yaml --json | jq '.members[] | select(any(.lost[]; .used)).name'"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &diffing{}
		f := cli.NewFlags()
		f.String(&c.name, "name", "NAME", "instead of the document NAME; default: the file's name")
		return c.finish(f), c.run
	},
}

type diffing struct {
	command
	name string
}

func (c *diffing) run(ctx context.Context, env *cli.Env, args []string) error {
	path, err := cli.One(args, "FILE")
	if err != nil {
		return err
	}
	f, err := readFile(env, path, c.name)
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	d, err := broker.DiffPolicy(ctx, f.name, f.text)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, d)
	}
	return printDiff(env.Stdout, d)
}

func printDiff(to io.Writer, d *admin.Diff) error {
	var b strings.Builder
	if d.Total == 0 {
		fmt.Fprintf(&b, "nobody would gain or lose anything (of %s)\n", cli.Count(d.Of))
	} else {
		fmt.Fprintf(&b, "%s of %s would gain or lose something\n", cli.Count(d.Total), cli.Count(d.Of))
	}
	for i := range d.Members {
		printMember(&b, &d.Members[i])
	}
	if more := d.Total - len(d.Members); more > 0 {
		fmt.Fprintf(&b, "\n… and %s more\n", cli.Count(more))
	}
	_, err := io.WriteString(to, b.String())
	return err
}

func printMember(b *strings.Builder, m *admin.MemberDiff) {
	fmt.Fprintf(b, "\n%s%s\n", cli.Printable(m.Name), clientNote(m.Name, m.Client, m.Connected))
	for _, side := range []struct {
		sign string
		list []admin.Difference
	}{{"-", m.Lost}, {"+", m.Gained}} {
		for _, d := range side.list {
			used, why := " ", ""
			if d.Used {
				used = "!"
			}
			if d.Why != "" {
				why = "  (" + d.Why + ")"
			}
			fmt.Fprintf(b, " %s%s %s %s%s\n", used, side.sign, d.Action, cli.Printable(d.Topic), why)
		}
	}
	if m.Limits != nil {
		fmt.Fprintf(b, "    limits: %s; now: %s\n", limits(m.Limits.After), limits(m.Limits.Before))
	}
}

// clientNote says which client somebody is, as far as that is more than the name says.
func clientNote(name, client string, connected bool) string {
	var words []string
	if client != "" && client != name {
		words = append(words, "client "+cli.Printable(client))
	}
	if connected {
		words = append(words, "connected")
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, ", ") + ")"
}

func limits(l admin.Limits) string {
	var words []string
	for _, w := range []struct{ value, what string }{
		{l.Messages, "messages"}, {l.Bytes, "bytes"}, {number(l.Subscriptions), "subscriptions"}, {l.SessionExpiry, "of session expiry"},
	} {
		if w.value != "" {
			words = append(words, w.value+" "+w.what)
		}
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return cli.Count(n)
}
