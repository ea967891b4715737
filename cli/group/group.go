// Package group is the command "fairlead group": names that policies grant something to.
// Begin with [Command].
package group

import (
	"context"
	"fmt"
	"time"

	"fairlead/admin"
	"fairlead/cli"
)

// Command is "fairlead group".
var Command = &cli.Command{
	Name: "group", Group: "Who may do what", Summary: "list groups, which policies grant something to",
	About: "A group is made when the first device or user comes into it, by \"fairlead device add --group\".",
	Examples: []cli.Example{
		{What: "all", Line: "fairlead group list"},
		{What: "who is in one", Line: "fairlead device list --group sensors"},
	},
	Commands: []*cli.Command{listCommand, addCommand, removeCommand},
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

var listCommand = &cli.Command{
	Name: "list", Summary: "list groups",
	Examples: []cli.Example{{What: "all", Line: "fairlead group list"}},
	New: func() (*cli.Flags, cli.Run) {
		c := &listing{}
		f := cli.NewFlags()
		c.paging.Flags(f)
		return c.finish(f), c.run
	},
}

type listing struct {
	command
	paging cli.Paging
}

func (c *listing) run(ctx context.Context, env *cli.Env, _ []string) error {
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	list := cli.List[admin.Group]{
		Get: broker.Groups, Paging: c.paging, JSON: c.asJSON, None: "no groups",
		Head: []string{"NAME", "ADDED", "ABOUT"},
		Row: func(g admin.Group) []string {
			about := ""
			if g.About != "" {
				about = cli.Printable(g.About)
			}
			return []string{g.Name, g.Created.Local().Format(time.DateOnly), about}
		},
	}
	_, err = list.Print(ctx, env)
	return err
}

var addCommand = &cli.Command{
	Name: "add", Usage: "NAME", Summary: "add a group, to say what it is for",
	Examples: []cli.Example{{What: "before anybody is in it", Line: "fairlead group add sensors --about 'report where they stand'"}},
	New: func() (*cli.Flags, cli.Run) {
		c := &adding{}
		f := cli.NewFlags()
		f.String(&c.about, "about", "TEXT", "what it is for")
		return c.finish(f), c.run
	},
}

type adding struct {
	command
	about string
}

func (c *adding) run(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	g, err := broker.AddGroup(ctx, admin.GroupSpec{Name: name, About: c.about})
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, g)
	}
	_, err = fmt.Fprintf(env.Stdout, "%s is added\n", g.Name)
	return err
}

var removeCommand = &cli.Command{
	Name: "remove", Usage: "NAME", Summary: "remove a group that nobody is in",
	Examples: []cli.Example{{What: "one group", Line: "fairlead group remove sensors"}},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.finish(cli.NewFlags()), c.remove
	},
}

func (c *command) remove(ctx context.Context, env *cli.Env, args []string) error {
	name, err := cli.One(args, "NAME")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	if err := broker.RemoveGroup(ctx, name, 0); err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, map[string]string{"removed": name})
	}
	_, err = fmt.Fprintf(env.Stdout, "%s is removed\n", name)
	return err
}
