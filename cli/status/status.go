// Package status is the command "fairlead status": how the broker on this machine
// fares. Begin with [Command].
package status

import (
	"context"
	"encoding/json"

	"fairlead/admin"
	"fairlead/cli"
)

// exitTrouble says that the broker answers and needs attention.
const exitTrouble = 3

// Command is "fairlead status".
var Command = &cli.Command{
	Name: "status", Group: "Broker", Summary: "show how the broker on this machine fares",
	About: `Asks the broker through the socket admin.sock in its data directory, which its
user and root may open. What is wrong stands on top.

Latencies are upper bounds: p99 ≤ 2.05 ms says that 99 of 100 were not longer. The
oldest message is the one that waits longest for its client.

Exit code: 0 all is well, 1 no broker answers, 2 wrong command line, 3 the broker is
in trouble: it can't write, or its checkpoints fail.`,
	Examples: []cli.Example{
		{What: "the broker in ./fairlead-data", Line: "fairlead status"},
		{What: "with the 50 biggest queues", Line: "fairlead status --data /var/lib/fairlead --top 50"},
		{What: "for a script", Line: "fairlead status --json | jq .queued.messages"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{top: 10}
		return c.flags(), c.run
	},
}

// command is the flags' values.
type command struct {
	data   cli.Data
	asJSON bool
	top    int
}

func (c *command) flags() *cli.Flags {
	f := cli.NewFlags()
	c.data.Flags(f)
	f.Int(&c.top, "top", "COUNT", 0, 10_000, "list so many of the biggest queues; default 10")
	f.Bool(&c.asJSON, "json", "as a JSON object")
	return f
}

func (c *command) run(ctx context.Context, env *cli.Env, _ []string) error {
	dir, err := c.data.Dir(env)
	if err != nil {
		return err
	}
	broker, err := admin.Dial(ctx, dir)
	if err != nil {
		return err
	}
	st, err := broker.Status(ctx, c.top)
	if err != nil {
		return err
	}
	if c.asJSON {
		e := json.NewEncoder(env.Stdout)
		e.SetIndent("", "  ")
		err = e.Encode(st)
	} else {
		err = print(env.Stdout, st)
	}
	if err == nil && len(st.Trouble) > 0 {
		return &cli.ExitError{Code: exitTrouble}
	}
	return err
}
