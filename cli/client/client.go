// Package client is the command "fairlead client": the clients that a broker knows. Begin
// with [Command].
package client

import (
	"context"
	"fmt"
	"time"

	"fairlead/admin"
	"fairlead/cli"
)

// Command is "fairlead client".
var Command = &cli.Command{
	Name: "client", Group: "Who may do what", Summary: "list clients, and disconnect them",
	Examples: []cli.Example{
		{What: "who is connected", Line: "fairlead client list --connected"},
		{What: "end a connection", Line: "fairlead client disconnect t1"},
	},
	Commands: []*cli.Command{listCommand, disconnectCommand},
}

var listCommand = &cli.Command{
	Name: "list", Summary: "list the clients that are connected or have a session",
	About: "In the order of their Client Identifiers. What is asked for by several flags must all be so.",
	Examples: []cli.Example{
		{What: "of one device", Line: "fairlead client list --device t1"},
		{What: "who is away, and has a session", Line: "fairlead client list --away"},
		{What: "who subscribes to what, for a script", Line: "fairlead client list --json | jq '.[] | {client, subscriptions}'"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &listing{}
		f := cli.NewFlags()
		f.String(&c.filter.Prefix, "prefix", "TEXT", "whose Client Identifier begins with it")
		f.String(&c.filter.Device, "device", "NAME", "of this device")
		f.String(&c.filter.User, "user", "NAME", "of this user")
		f.Bool(&c.connected, "connected", "that are connected")
		f.Bool(&c.away, "away", "that are not")
		c.paging.Flags(f)
		return c.finish(f), c.run
	},
}

// command is what all the commands share.
type command struct {
	cli.Target
	asJSON bool
}

// finish adds the flags that all the commands have.
func (c *command) finish(f *cli.Flags) *cli.Flags {
	f.Bool(&c.asJSON, "json", "as JSON")
	c.Target.Flags(f)
	return f
}

type listing struct {
	command
	filter          admin.ClientFilter
	connected, away bool
	paging          cli.Paging
}

func (c *listing) run(ctx context.Context, env *cli.Env, _ []string) error {
	if c.connected && c.away {
		return cli.Usagef("--connected and --away: expected one of them")
	}
	if c.connected || c.away {
		c.filter.Connected = &c.connected
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	list := cli.List[admin.ClientInfo]{
		Get: func(ctx context.Context, p admin.Page) (*admin.List[admin.ClientInfo], error) {
			return broker.Clients(ctx, c.filter, p)
		},
		Paging: c.paging, JSON: c.asJSON, None: "no such client",
		Head: []string{"CLIENT", "WHO", "BY", "FROM", "SINCE", "SUBSCRIPTIONS"}, Row: row,
	}
	_, err = list.Print(ctx, env)
	return err
}

func row(i admin.ClientInfo) []string {
	who := ""
	switch {
	case i.Device != "":
		who = "device " + cli.Printable(i.Device)
	case i.User != "":
		who = "user " + cli.Printable(i.User)
	}
	since := "away"
	if i.Connected {
		since = "connected"
	}
	if i.Connected && i.Since != nil {
		since = i.Since.Local().Format(time.DateTime)
	}
	return []string{cli.Printable(i.Client), who, i.Method, i.Remote, since, cli.Count(len(i.Subscriptions))}
}

var disconnectCommand = &cli.Command{
	Name: "disconnect", Usage: "CLIENT", Summary: "end the connection of a client",
	About: "It may come back. \"fairlead device suspend\" keeps a device out.",
	Examples: []cli.Example{
		{What: "by its Client Identifier", Line: "fairlead client disconnect t1:debug --reason 'forgotten since May'"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &disconnecting{}
		f := cli.NewFlags()
		f.String(&c.reason, "reason", "TEXT", "why, for the audit log")
		return c.finish(f), c.run
	},
}

type disconnecting struct {
	command
	reason string
}

func (c *disconnecting) run(ctx context.Context, env *cli.Env, args []string) error {
	id, err := cli.One(args, "CLIENT")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	if err := broker.DisconnectClient(ctx, id, c.reason); err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, map[string]string{"disconnected": id})
	}
	_, err = fmt.Fprintf(env.Stdout, "%s is disconnected\n", cli.Printable(id))
	return err
}
