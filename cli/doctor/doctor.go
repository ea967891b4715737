// Package doctor is the command "fairlead doctor": what is insecure or about to end, and
// the command that mends it. Begin with [Command].
package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"

	"fairlead/admin"
	"fairlead/cli"
)

// Command is "fairlead doctor".
var Command = &cli.Command{
	Name: "doctor", Group: "Broker", Summary: "say what is insecure or about to end, and what mends it",
	About: `Looks at a running broker and its configuration. The worst stands first.

Exit code: 0 no danger, 1 there is a danger, or the broker could not be asked, 2 wrong
command line.`,
	Examples: []cli.Example{
		{What: "the broker on this machine", Line: "fairlead doctor"},
		{What: "another one", Line: "fairlead doctor --server https://broker.example:8443 --token-file ci.token"},
		{What: "for a script", Line: "fairlead doctor --json | jq -r '.[] | select(.severity == \"danger\").what'"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		f := cli.NewFlags()
		f.Bool(&c.asJSON, "json", "as JSON")
		c.Target.Flags(f)
		return f, c.run
	},
}

// command is the flags' values.
type command struct {
	cli.Target
	asJSON bool
}

func (c *command) run(ctx context.Context, env *cli.Env, _ []string) error {
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	findings, err := broker.Doctor(ctx)
	if err != nil {
		return err
	}
	if c.asJSON {
		if findings == nil {
			findings = []admin.Finding{}
		}
		err = cli.PrintJSON(env.Stdout, findings)
	} else {
		err = print(env.Stdout, findings)
	}
	for _, f := range findings {
		if err == nil && f.Severity == admin.Danger {
			return &cli.ExitError{Code: cli.ExitFailed}
		}
	}
	return err
}

func print(to io.Writer, findings []admin.Finding) error {
	var b strings.Builder
	counts := make(map[string]int)
	for _, f := range findings {
		counts[f.Severity]++
		fmt.Fprintf(&b, "%-7s  %s\n", strings.ToUpper(f.Severity), indented(f.What))
		if f.Why != "" {
			fmt.Fprintf(&b, "         %s\n", indented(f.Why))
		}
		if f.Command != "" {
			fmt.Fprintf(&b, "         Mend it: %s\n", indented(f.Command))
		}
		b.WriteByte('\n')
	}
	if len(findings) == 0 {
		b.WriteString("nothing is insecure or about to end\n")
	} else {
		fmt.Fprintf(&b, "%s, %s, %s\n", cli.Things(counts[admin.Danger], "danger"), cli.Things(counts[admin.Warning], "warning"),
			pieces(counts[admin.Advice]))
	}
	_, err := io.WriteString(to, b.String())
	return err
}

// indented keeps a text of several lines in its column.
func indented(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n         ")
}

func pieces(n int) string {
	if n == 1 {
		return "1 piece of advice"
	}
	return cli.Count(n) + " pieces of advice"
}
