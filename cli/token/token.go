// Package token is the command "fairlead token": secrets that stand for a user or a
// device. Begin with [Command].
package token

import (
	"context"
	"fmt"
	"time"

	"fairlead/admin"
	"fairlead/cli"
)

// Command is "fairlead token".
var Command = &cli.Command{
	Name: "token", Group: "Who may do what", Summary: "make and remove tokens, which stand for a user or a device",
	About: `A token is a random secret. A client shows it as its password; an operator's tools show it to the
API, with --server and --token-file. It can be removed without changing anything else.`,
	Examples: []cli.Example{
		{What: "for a tool", Line: "fairlead token add --user ci --about 'deploy pipeline' --expires 90d > ci.token"},
		{What: "use it from elsewhere", Line: "fairlead device list --server https://broker.example:8443 --token-file ci.token"},
	},
	Commands: []*cli.Command{addCommand, listCommand, removeCommand},
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

var addCommand = &cli.Command{
	Name: "add", Summary: "make a token",
	About: "Prints the token on standard output, and nothing else there. It is shown once and not kept.",
	Examples: []cli.Example{
		{What: "for a user, into a file that only we may read", Line: "umask 077; fairlead token add --user ci > ci.token"},
		{What: "for a device, until a day", Line: "fairlead token add --device lamp-1 --expires 2027-06-30"},
	},
	New: func() (*cli.Flags, cli.Run) {
		c := &adding{}
		f := cli.NewFlags()
		f.String(&c.spec.User, "user", "NAME", "it stands for this user,")
		f.String(&c.spec.Device, "device", "NAME", "or for this device")
		f.String(&c.spec.About, "about", "TEXT", "what it is for")
		f.Func("expires", "WHEN", "it is worth nothing after that: a span like 90d, or a time like 2027-06-30; default: never", func(s string) error {
			at, err := expiry(s, time.Now())
			c.spec.Expires = &at
			return err
		})
		return c.finish(f), c.run
	},
}

// expiry is the time that s names, from now on.
func expiry(s string, now time.Time) (time.Time, error) {
	if d, err := cli.ParseDays(s); err == nil && d > 0 {
		return now.Add(d), nil
	}
	at, err := cli.ParseTime(s)
	if err != nil {
		return at, fmt.Errorf("%q: expected a span like 90d or 12h, or a time like 2027-06-30", s)
	}
	if !at.After(now) {
		return at, fmt.Errorf("%q: expected a time in the future", s)
	}
	return at, nil
}

type adding struct {
	command
	spec admin.TokenSpec
}

func (c *adding) run(ctx context.Context, env *cli.Env, _ []string) error {
	if (c.spec.User == "") == (c.spec.Device == "") {
		return cli.Usagef("whom does it stand for? expected --user NAME or --device NAME")
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	made, err := broker.AddToken(ctx, c.spec)
	if err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, made)
	}
	until := "until it is removed"
	if made.Token.Expires != nil {
		until = "until " + made.Token.Expires.Local().Format(time.DateTime)
	}
	fmt.Fprintf(env.Stderr, "token %s stands for %s, %s. It is shown once:\n", made.Token.ID, whom(&made.Token), until)
	_, err = fmt.Fprintln(env.Stdout, made.Text)
	return err
}

// whom is whom a token stands for.
func whom(t *admin.Token) string {
	if t.Device != "" {
		return "device " + t.Device
	}
	return "user " + t.User
}

var listCommand = &cli.Command{
	Name: "list", Summary: "list tokens, without their secrets",
	Examples: []cli.Example{{What: "all", Line: "fairlead token list"}},
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
	now := time.Now()
	list := cli.List[admin.Token]{
		Get: broker.Tokens, Paging: c.paging, JSON: c.asJSON, None: "no tokens",
		Head: []string{"ID", "STANDS FOR", "UNTIL", "ADDED", "ABOUT"},
		Row: func(t admin.Token) []string {
			return []string{t.ID, whom(&t), until(&t, now), t.Created.Local().Format(time.DateOnly), about(t.About)}
		},
	}
	_, err = list.Print(ctx, env)
	return err
}

func until(t *admin.Token, now time.Time) string {
	switch {
	case t.Expires == nil:
		return "removed"
	case now.After(*t.Expires):
		return "EXPIRED " + t.Expires.Local().Format(time.DateOnly)
	}
	return t.Expires.Local().Format(time.DateOnly)
}

func about(text string) string {
	if text == "" {
		return ""
	}
	return cli.Printable(text)
}

var removeCommand = &cli.Command{
	Name: "remove", Usage: "ID", Summary: "remove a token",
	About:    "From then on it is worth nothing. ID is the word between the first two _ of the token.",
	Examples: []cli.Example{{What: "by its id", Line: "fairlead token remove 7kq2m4"}},
	New: func() (*cli.Flags, cli.Run) {
		c := &command{}
		return c.finish(cli.NewFlags()), c.remove
	},
}

func (c *command) remove(ctx context.Context, env *cli.Env, args []string) error {
	id, err := cli.One(args, "ID")
	if err != nil {
		return err
	}
	broker, err := c.Dial(ctx, env)
	if err != nil {
		return err
	}
	if err := broker.RemoveToken(ctx, id); err != nil {
		return err
	}
	if c.asJSON {
		return cli.PrintJSON(env.Stdout, map[string]string{"removed": id})
	}
	_, err = fmt.Fprintf(env.Stdout, "token %s is worth nothing any more\n", cli.Printable(id))
	return err
}
